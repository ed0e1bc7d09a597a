#![expect(
    unsafe_code,
    reason = "libvirt delivers events only through C callbacks, which the virt crate does not wrap"
)]
//! libvirt's events.
//!
//! A callback only calls a [`Listener`], which returns immediately. The callback does not call the daemon, and cannot
//! panic into C.
//!
//! Ownership: each registration has its own boxed reference to the listener. Once libvirt accepts the registration,
//! libvirt owns the box and returns it through `free` when no callback can use it; if libvirt rejects the
//! registration, the box is freed here.

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
use wakevirt_service::logs::kind;

/// Receives the events of a connection. Both methods run on libvirt's event thread, which all connections share: they
/// must return immediately.
pub trait Listener: Send + Sync + 'static {
    /// This domain has changed.
    fn changed(&self, uuid: Uuid);

    /// This domain has started, or was resumed.
    fn running(&self, uuid: Uuid) {
        self.changed(uuid);
    }

    /// The connection was lost, for this reason.
    fn closed(&self, reason: &'static str);
}

/// Starts the thread that runs libvirt's event loop, once per process. Call this before the first connection is opened.
pub fn start_loop() -> Result<(), Error> {
    static STARTED: OnceLock<Result<(), Error>> = OnceLock::new();
    STARTED
        .get_or_init(|| {
            // Errors are returned and logged; libvirt would print them as well.
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
            tracing::error!(
                MESSAGE_ID = kind::INTERNAL_ERROR,
                "libvirt's event loop failed: {}",
                error.message()
            );
            // Prevents a busy loop if it fails again at once.
            thread::sleep(Duration::from_secs(1));
        }
    }
}

/// The callbacks that are registered with one connection. Dropping this value unregisters them.
#[derive(Debug)]
pub struct Subscription {
    connection: Connect,
    domain_events: Vec<c_int>,
    has_close_callback: bool,
}

/// Reports the end of the connection to the listener.
pub fn watch(connection: &Connect, listener: &Arc<dyn Listener>) -> Result<Subscription, Error> {
    let connection = connection.clone();
    let mut subscription = Subscription { connection, domain_events: Vec::new(), has_close_callback: false };
    subscription.add_close_callback(listener)?;
    Ok(subscription)
}

/// Reports changes to domains and the end of the connection to the listener.
pub fn subscribe(connection: &Connect, listener: &Arc<dyn Listener>) -> Result<Subscription, Error> {
    let mut subscription = watch(connection, listener)?;
    // SAFETY: the same pointer with libvirt's generic type for callbacks; for this event, libvirt casts it back to the
    // type that it has here (libvirt-domain.h, VIR_DOMAIN_EVENT_ID_LIFECYCLE).
    let lifecycle = unsafe { transmute::<sys::virConnectDomainEventCallback, Callback>(Some(lifecycle)) };
    // SAFETY: as above; the callbacks for added and removed devices have the same type.
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
        subscription.add_event(event, callback, listener)?;
    }
    Ok(subscription)
}

/// libvirt's generic type of domain callbacks.
type Callback = sys::virConnectDomainEventGenericCallback;

impl Subscription {
    fn add_event(
        &mut self,
        event: sys::virDomainEventID,
        callback: Callback,
        listener: &Arc<dyn Listener>,
    ) -> Result<(), Error> {
        let Ok(event) = c_int::try_from(event) else { return Ok(()) };
        let listener = into_pointer(listener);
        // SAFETY: the connection outlives the call; a null domain means all domains.
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
            // SAFETY: it comes from `into_pointer`, and libvirt rejected it.
            return Err(unsafe { rejected(listener) });
        }
        self.domain_events.push(id);
        Ok(())
    }

    fn add_close_callback(&mut self, listener: &Arc<dyn Listener>) -> Result<(), Error> {
        let listener = into_pointer(listener);
        // SAFETY: the connection outlives the call.
        let connection = unsafe { self.connection.as_ptr() };
        // SAFETY: `listener` lives until libvirt calls `free`. (A driver inside this process, whose
        // connection cannot be lost, leaks it: a few bytes, once.)
        let result =
            unsafe { sys::virConnectRegisterCloseCallback(connection, Some(closed), listener, Some(free)) };
        if result < 0 {
            // SAFETY: as above.
            return Err(unsafe { rejected(listener) });
        }
        self.has_close_callback = true;
        Ok(())
    }
}

impl Drop for Subscription {
    /// Each registration holds a reference to the connection, which would otherwise never close.
    fn drop(&mut self) {
        // SAFETY: the connection lives at least until the end of this function.
        let connection = unsafe { self.connection.as_ptr() };
        for id in self.domain_events.drain(..) {
            // On a lost connection, this returns an error, but libvirt has removed the callback by then. SAFETY: the
            // connection is valid, and the number came from it.
            unsafe { sys::virConnectDomainEventDeregisterAny(connection, id) };
        }
        if self.has_close_callback {
            // SAFETY: the connection is valid, and the function was registered with it.
            unsafe { sys::virConnectUnregisterCloseCallback(connection, Some(closed)) };
        }
    }
}

/// Creates a reference for libvirt to own.
fn into_pointer(listener: &Arc<dyn Listener>) -> *mut c_void {
    Box::into_raw(Box::new(Arc::clone(listener))).cast()
}

/// Returns libvirt's last error, after libvirt rejected the registration, and frees the reference.
///
/// # Safety
/// As for [`free`].
unsafe fn rejected(listener: *mut c_void) -> Error {
    let error = Error::last_error();
    // SAFETY: guaranteed by the caller.
    unsafe { free(listener) };
    error
}

/// Frees a reference.
///
/// # Safety
/// `listener` comes from [`into_pointer`] and is not used again.
unsafe extern "C" fn free(listener: *mut c_void) {
    // SAFETY: it was created from such a box, and is not used again.
    drop(unsafe { Box::from_raw(listener.cast::<Arc<dyn Listener>>()) });
}

/// # Safety
/// `listener` comes from [`into_pointer`] and was not freed.
unsafe fn from_pointer<'a>(listener: *mut c_void) -> &'a dyn Listener {
    // SAFETY: it points to such a reference, which libvirt frees only when no callback is running. A listener can be
    // used by several threads at once, in case libvirt calls it from a thread other than that of its event loop.
    let listener = unsafe { &*listener.cast::<Arc<dyn Listener>>() };
    listener.as_ref()
}

/// # Safety
/// `domain` is valid during the call; `listener` as for [`from_pointer`].
unsafe fn report(domain: sys::virDomainPtr, listener: *mut c_void, method: fn(&dyn Listener, Uuid)) {
    let mut uuid = [0; sys::VIR_UUID_BUFLEN as usize];
    // SAFETY: the domain is valid during the callback, and the buffer has the required length. The function reads the
    // copy in the domain, and does not call the daemon.
    let result = unsafe { sys::virDomainGetUUID(domain, uuid.as_mut_ptr()) };
    if result == 0 {
        // SAFETY: guaranteed by the caller.
        method(unsafe { from_pointer(listener) }, Uuid::from_bytes(uuid));
    }
}

unsafe extern "C" fn lifecycle(
    _: sys::virConnectPtr,
    domain: sys::virDomainPtr,
    event: c_int,
    _detail: c_int,
    listener: *mut c_void,
) -> c_int {
    let runs = matches!(
        sys::virDomainEventType::try_from(event),
        Ok(sys::VIR_DOMAIN_EVENT_STARTED | sys::VIR_DOMAIN_EVENT_RESUMED)
    );
    let method = if runs { <dyn Listener>::running } else { <dyn Listener>::changed };
    // SAFETY: libvirt passes a valid domain and the registered pointer.
    unsafe { report(domain, listener, method) };
    0
}

unsafe extern "C" fn device(
    _: sys::virConnectPtr,
    domain: sys::virDomainPtr,
    _alias: *const c_char,
    listener: *mut c_void,
) {
    // SAFETY: as above.
    unsafe { report(domain, listener, <dyn Listener>::changed) };
}

unsafe extern "C" fn metadata(
    _: sys::virConnectPtr,
    domain: sys::virDomainPtr,
    _kind: c_int,
    _uri: *const c_char,
    listener: *mut c_void,
) {
    // SAFETY: as above.
    unsafe { report(domain, listener, <dyn Listener>::changed) };
}

unsafe extern "C" fn closed(_: sys::virConnectPtr, reason: c_int, listener: *mut c_void) {
    let reason = match sys::virConnectCloseReason::try_from(reason) {
        Ok(sys::VIR_CONNECT_CLOSE_REASON_EOF) => "the daemon closed it",
        Ok(sys::VIR_CONNECT_CLOSE_REASON_KEEPALIVE) => "the daemon does not respond",
        _ => "the connection failed",
    };
    // SAFETY: libvirt passes the registered pointer.
    unsafe { from_pointer(listener) }.closed(reason);
}
