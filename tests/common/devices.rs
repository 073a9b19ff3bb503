//! The devices that every test of an op runs on.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::OnceLock;

use glmc_engine::backend;
use glmc_engine::ops::Backend;
use glmc_engine::tensor::Precision;

/// A device in one precision.
#[derive(Clone, Debug)]
pub struct Device {
    /// As `backend::open` knows it.
    pub name: &'static str,
    pub precision: Precision,
    /// Why it is not here, if so: its trials are then listed as ignored, with the reason.
    pub absent: Option<String>,
}

impl Device {
    const fn present(name: &'static str, precision: Precision) -> Device {
        Device { name, precision, absent: None }
    }

    /// `cpu f32`.
    pub fn label(&self) -> String {
        match &self.absent {
            None => format!("{} {}", self.name, self.precision),
            Some(reason) => format!("{} {} ({reason})", self.name, self.precision),
        }
    }
}

/// The device that the others are measured against.
pub const ORACLE: Device = Device::present("cpu", Precision::F64);

/// All devices, the oracle among them. The emulator looks at every memory access.
pub fn all() -> Vec<Device> {
    let mut all = vec![Device::present("cpu", Precision::F32), ORACLE];
    // Asking opens devices: once is enough for hundreds of trials.
    static KNOWN: OnceLock<Vec<(String, glmc_engine::Result<String>)>> = OnceLock::new();
    let known = KNOWN.get_or_init(backend::devices);
    let state = |name: &str| known.iter().find(|(device, _)| device.starts_with(name)).map(|(_, state)| state);
    for (name, prefix) in [("emulator:checked", "emulator"), ("cuda", "cuda")] {
        let absent = match state(prefix) {
            Some(Ok(_)) => None,
            Some(Err(error)) => Some(error.to_string()),
            None => Some("no such device".to_owned()),
        };
        for precision in [Precision::F32, Precision::Bf16] {
            all.push(Device { name, precision, absent: absent.clone() });
        }
    }
    all
}

/// The device, opened once per thread: opening may mean to compile kernels.
pub fn open(device: &Device) -> Rc<dyn Backend> {
    open_with_threads(device, 2)
}

/// As [`open`], with this number of CPU threads.
pub fn open_with_threads(device: &Device, threads: usize) -> Rc<dyn Backend> {
    type Opened = HashMap<(&'static str, Precision, usize), Rc<dyn Backend>>;
    thread_local!(static OPENED: RefCell<Opened> = RefCell::default());
    OPENED.with_borrow_mut(|opened| {
        let open = || -> Rc<dyn Backend> {
            Rc::from(backend::open(device.name, device.precision, threads).expect("a device that is said to be here"))
        };
        Rc::clone(opened.entry((device.name, device.precision, threads)).or_insert_with(open))
    })
}
