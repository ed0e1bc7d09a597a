//! What a domain's XML says about memory, CPUs and devices.
