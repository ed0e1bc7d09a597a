//! The project's own files and pages.

pub mod dependencies;
pub mod files;
pub mod json;
pub mod readme;
