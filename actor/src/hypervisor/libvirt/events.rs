#![expect(
    unsafe_code,
    reason = "libvirt's events come only as C callbacks, which the virt crate does not wrap"
)]
//! libvirt's events: the only unsafe code of the actor.
//!
//! A callback does nothing but tell a [`Listener`], which returns at once: it calls nothing that asks the
//! daemon, and cannot panic into C.
//!
//! Who owns what: each registration gets a boxed reference to the listener of its own. From the moment that libvirt
//! accepts it, libvirt owns the box and gives it back through [`free`], once no callback can use it
//! any more; if libvirt does not accept it, it is freed here.

use std::ffi::{c_char, c_int, c_void};
use std::mem::transmute;
use std::ptr::null_mut;
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use uuid::Uuid;
use virt::connect::Connect;
use virt::error::Error;
use virt::sys;

/// Who is told what happens to a connection. Both methods run on libvirt's own thread, which serves all
/// connections: they must return at once.
pub(super) trait Listener: Send + Sync + 'static {
    /// Something about this domain has changed.
    fn changed(&self, uuid: Uuid);

    /// The connection is lost, for this reason.
    fn closed(&self, reason: &'static str);
}

/// Starts the thread that runs libvirt's event loop, once for the whole process. Call it before the
/// first connection is opened.
pub(super) fn start_loop() -> Result<(), Error> {
    static STARTED: OnceLock<Result<(), Error>> = OnceLock::new();
    STARTED
        .get_or_init(|| {
            // Errors are returned, and logged once; libvirt would print them as well.
            virt::error::clear_error_callback();
            virt::event::event_register_default_impl()?;
            thread::spawn(run_loop);
            Ok(())
        })
        .clone()
}

fn run_loop() {
    loop {
        if let Err(error) = virt::event::event_run_default_impl() {
            tracing::error!("libvirt's event loop: {}", error.message());
            // Not to spin, should it fail again at once.
            thread::sleep(Duration::from_secs(1));
        }
    }
}

/// What is registered with one connection, until it is dropped.
#[derive(Debug)]
pub(super) struct Subscription {
    connection: Connect,
    domain_events: Vec<c_int>,
    closing: bool,
}

/// Tells the listener the end of the connection.
pub(super) fn watch(connection: &Connect, listener: &Arc<dyn Listener>) -> Result<Subscription, Error> {
    let connection = connection.clone();
    let mut subscription = Subscription { connection, domain_events: Vec::new(), closing: false };
    subscription.tell_end(listener)?;
    Ok(subscription)
}

/// Tells the listener each change: what concerns a domain, and the end of the connection.
pub(super) fn subscribe(connection: &Connect, listener: &Arc<dyn Listener>) -> Result<Subscription, Error> {
    let mut subscription = watch(connection, listener)?;
    // SAFETY: the same pointer under libvirt's general type for callbacks; for this event libvirt
    // casts it back to the type that it has here (libvirt-domain.h, VIR_DOMAIN_EVENT_ID_LIFECYCLE).
    let lifecycle = unsafe { transmute::<sys::virConnectDomainEventCallback, Callback>(Some(lifecycle)) };
    // SAFETY: as above; the types for added and for removed devices are the same.
    let device =
        unsafe { transmute::<sys::virConnectDomainEventDeviceAddedCallback, Callback>(Some(device)) };
    // SAFETY: as above.
    let metadata =
        unsafe { transmute::<sys::virConnectDomainEventMetadataChangeCallback, Callback>(Some(metadata)) };
    for (event, callback) in [
        (sys::VIR_DOMAIN_EVENT_ID_LIFECYCLE, lifecycle),
        (sys::VIR_DOMAIN_EVENT_ID_DEVICE_ADDED, device),
        (sys::VIR_DOMAIN_EVENT_ID_DEVICE_REMOVED, device),
        (sys::VIR_DOMAIN_EVENT_ID_METADATA_CHANGE, metadata),
    ] {
        subscription.tell_domains(event, callback, listener)?;
    }
    Ok(subscription)
}

/// libvirt's general type for the callbacks of domains.
type Callback = sys::virConnectDomainEventGenericCallback;

impl Subscription {
    fn tell_domains(
        &mut self,
        event: sys::virDomainEventID,
        callback: Callback,
        listener: &Arc<dyn Listener>,
    ) -> Result<(), Error> {
        let Ok(event) = c_int::try_from(event) else { return Ok(()) };
        let listener = given(listener);
        // SAFETY: the connection outlives the call; no domain (null) means all of them.
        let connection = unsafe { self.connection.as_ptr() };
        // SAFETY: the callback belongs to this event; `listener` lives until libvirt calls `free`.
        let id = unsafe {
            sys::virConnectDomainEventRegisterAny(
                connection,
                null_mut(),
                event,
                callback,
                listener,
                Some(free),
            )
        };
        if id < 0 {
            // SAFETY: `given` made it, and libvirt, which refused, has not kept it.
            return Err(unsafe { refused(listener) });
        }
        self.domain_events.push(id);
        Ok(())
    }

    fn tell_end(&mut self, listener: &Arc<dyn Listener>) -> Result<(), Error> {
        let listener = given(listener);
        // SAFETY: the connection outlives the call.
        let connection = unsafe { self.connection.as_ptr() };
        // SAFETY: `listener` lives until libvirt calls `free`. (A driver within this process, which
        // cannot be lost, forgets it: a few bytes, once.)
        let result =
            unsafe { sys::virConnectRegisterCloseCallback(connection, Some(closed), listener, Some(free)) };
        if result < 0 {
            // SAFETY: as above.
            return Err(unsafe { refused(listener) });
        }
        self.closing = true;
        Ok(())
    }
}

impl Drop for Subscription {
    /// Each registration holds a reference to the connection, which would never close otherwise.
    fn drop(&mut self) {
        // SAFETY: the connection lives until the end of this function at least.
        let connection = unsafe { self.connection.as_ptr() };
        for id in self.domain_events.drain(..) {
            // A lost connection cannot ask the daemon, which makes this an error; the callback is gone
            // by then, and there is nothing else to do.
            // SAFETY: the connection is valid, and the number came from it.
            unsafe { sys::virConnectDomainEventDeregisterAny(connection, id) };
        }
        if self.closing {
            // SAFETY: the connection is valid, and the function was registered with it.
            unsafe { sys::virConnectUnregisterCloseCallback(connection, Some(closed)) };
        }
    }
}

/// A reference for libvirt to keep.
fn given(listener: &Arc<dyn Listener>) -> *mut c_void {
    Box::into_raw(Box::new(Arc::clone(listener))).cast()
}

/// libvirt's last error, after it refused the reference.
///
/// # Safety
/// As for [`free`].
unsafe fn refused(listener: *mut c_void) -> Error {
    let error = Error::last_error();
    // SAFETY: as the caller promises.
    unsafe { free(listener) };
    error
}

/// Takes a reference back.
///
/// # Safety
/// `listener` comes from [`given`], and is not used again.
unsafe extern "C" fn free(listener: *mut c_void) {
    // SAFETY: it was made from such a box, and is used for the last time.
    drop(unsafe { Box::from_raw(listener.cast::<Arc<dyn Listener>>()) });
}

/// # Safety
/// `listener` comes from [`given`], and was not freed.
unsafe fn given_back<'a>(listener: *mut c_void) -> &'a dyn Listener {
    // SAFETY: it points to such a reference, which libvirt frees only when no callback runs. A listener may
    // be used by several threads at once, should libvirt call from another than its event loop's.
    let listener = unsafe { &*listener.cast::<Arc<dyn Listener>>() };
    listener.as_ref()
}

/// # Safety
/// libvirt's, for `domain` borrowed for the time of the call; `listener` as for [`given_back`].
unsafe fn changed(domain: sys::virDomainPtr, listener: *mut c_void) {
    let mut uuid = [0; sys::VIR_UUID_BUFLEN as usize];
    // SAFETY: the domain is valid during the callback, and the buffer has the length that is asked
    // for. It reads the pointer's own copy, and does not ask the daemon.
    let result = unsafe { sys::virDomainGetUUID(domain, uuid.as_mut_ptr()) };
    if result == 0 {
        // SAFETY: as the caller promises.
        unsafe { given_back(listener) }.changed(Uuid::from_bytes(uuid));
    }
}

unsafe extern "C" fn lifecycle(
    _: sys::virConnectPtr,
    domain: sys::virDomainPtr,
    _event: c_int,
    _detail: c_int,
    listener: *mut c_void,
) -> c_int {
    // SAFETY: libvirt passes a valid domain, and what was registered.
    unsafe { changed(domain, listener) };
    0
}

unsafe extern "C" fn device(
    _: sys::virConnectPtr,
    domain: sys::virDomainPtr,
    _alias: *const c_char,
    listener: *mut c_void,
) {
    // SAFETY: as above.
    unsafe { changed(domain, listener) };
}

unsafe extern "C" fn metadata(
    _: sys::virConnectPtr,
    domain: sys::virDomainPtr,
    _kind: c_int,
    _uri: *const c_char,
    listener: *mut c_void,
) {
    // SAFETY: as above.
    unsafe { changed(domain, listener) };
}

unsafe extern "C" fn closed(_: sys::virConnectPtr, reason: c_int, listener: *mut c_void) {
    let reason = match sys::virConnectCloseReason::try_from(reason) {
        Ok(sys::VIR_CONNECT_CLOSE_REASON_EOF) => "the daemon has closed it",
        Ok(sys::VIR_CONNECT_CLOSE_REASON_KEEPALIVE) => "the daemon does not answer",
        _ => "an error of the connection",
    };
    // SAFETY: libvirt passes what was registered.
    unsafe { given_back(listener) }.closed(reason);
}
