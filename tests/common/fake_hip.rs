//! The fake driver of `tests/fake_hip`, which a test has for itself in a process of its own.

use std::path::PathBuf;
use std::process::Command;

use libloading::Library;

/// Says in the child that it is one.
const INSIDE: &str = "FAKE_HIP_INSIDE";

/// The library, which `cargo test` builds beside the tests.
pub fn library() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let name = format!("{}fake_hip{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX);
    let library = test.parent().unwrap().join(name);
    assert!(library.exists(), "{} is missing: cargo build -p fake-hip", library.display());
    library
}

/// Variables that have a program find the fake in place of AMD's libraries, and no cache.
pub fn variables() -> [(&'static str, String); 3] {
    let path = library().to_str().unwrap().to_owned();
    [
        ("ELLESMERE_HIP_LIBRARY", path.clone()),
        ("ELLESMERE_COMGR_LIBRARY", path),
        ("ELLESMERE_CACHE_DIR", "off".to_owned()),
    ]
}

/// Whether this process has the fake as its driver. If not, the test of this name runs again in one
/// that has, with these variables more, and must pass there.
///
/// # Panics
///
/// If it fails there.
pub fn inside(test: &str, more: &[(&str, &str)]) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([test, "--exact", "--nocapture"]).env(INSIDE, "yes").envs(variables());
    let output = command.envs(more.iter().copied()).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (printed, said) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{test} with {more:?}: {}\n{printed}\n{said}", output.status);
    assert!(printed.contains("1 passed"), "no test is called {test}: {printed}");
    false
}

/// What the fake does on request.
pub struct Fake {
    library: Library,
}

impl Fake {
    /// The one that this process has as its driver.
    pub fn open() -> Self {
        // SAFETY: the library is open already.
        Self { library: unsafe { Library::new(library()) }.unwrap() }
    }

    /// Has `times` calls from the `at`-th on fail with a code; none if `at` is 0.
    pub fn fail(&self, at: u64, times: u64, code: i32) {
        type Fail = unsafe extern "C" fn(u64, u64, i32);
        // SAFETY: the type is that of the function.
        unsafe { self.library.get::<Fail>(b"fake_hip_fail").unwrap()(at, times, code) };
    }

    /// Calls that could have failed since.
    pub fn calls(&self) -> u64 {
        // SAFETY: as above.
        unsafe { self.library.get::<unsafe extern "C" fn() -> u64>(b"fake_hip_calls").unwrap()() }
    }

    /// What is held: bytes of the device, bytes of pinned memory, objects.
    pub fn held(&self) -> [u64; 3] {
        type Held = unsafe extern "C" fn(u32) -> u64;
        // SAFETY: as above.
        let held = unsafe { self.library.get::<Held>(b"fake_hip_held") }.unwrap();
        // SAFETY: as above.
        [0, 1, 2].map(|which| unsafe { held(which) })
    }
}
