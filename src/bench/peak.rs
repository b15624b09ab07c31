//! What a device can do at most: arithmetic, memory, transfers, launches.
//!
//! [`measure`] runs kernels that do nothing else, at least five times each, and takes the best run:
//! whatever disturbs a run makes it slower. [`Peaks`] can be kept in a file for each device and
//! driver, so that percents of peak need no measuring; [`roofline`](super::roofline) reads them.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::device::Device;
use crate::hardware::Preset;
use crate::info::DeviceInfo;
use crate::io::atomic;
use crate::memory::Lifetime;
use crate::ops::{self, Action};
use crate::tensor::Tensor;
use crate::{DType, Error, Result};

/// The first field of a file of peaks.
const FORMAT: &str = "ellesmere peaks 1";

/// A file longer than this is not ours.
const MOST_BYTES: u64 = 1 << 20;

/// For how long each figure is measured, at least so often.
const TIME: Duration = Duration::from_millis(300);
const FEWEST: usize = 5;

/// The shortest run that is timed: long next to a launch, and so short that among a hundred some
/// are not disturbed by what else the machine does.
const SHORTEST: Duration = Duration::from_millis(3);

/// What one device does at most.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Peaks {
    format: String,
    /// The version of this crate.
    pub version: String,
    /// Seconds since 1970.
    pub measured_at: u64,
    /// The device, and the driver that it was measured through.
    pub backend: String,
    /// See [`DeviceInfo::name`].
    pub device: String,
    /// See [`DeviceInfo::platform`].
    pub platform: String,
    /// See [`DeviceInfo::driver`].
    pub driver: String,
    /// What the expected figures follow from; `None` where no preset knows the device.
    pub preset: Option<String>,
    /// How long measuring took.
    pub seconds: f64,
    /// Multiply-adds of f32.
    pub f32: Peak,
    /// Multiply-adds of f16; `None` where f16 is storage only.
    pub f16: Option<Peak>,
    /// Dot products of signed bytes.
    pub int8: Peak,
    /// Reading of memory.
    pub memory_read: Peak,
    /// Writing of memory.
    pub memory_write: Peak,
    /// Copying inside memory; bytes read and bytes written both count.
    pub memory_copy: Peak,
    /// Reading of local memory, by all compute units together.
    pub local_memory: Peak,
    /// From the host's memory to the device's.
    pub host_to_device: Peak,
    /// From the device's memory to the host's.
    pub device_to_host: Peak,
    /// An almost empty kernel, queued and waited for.
    pub launch_and_finish: Peak,
    /// The same for each of many that are queued before anybody waits.
    pub launch_back_to_back: Peak,
}

/// One measured limit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Peak {
    /// The best run's.
    pub value: f64,
    /// The median run's.
    pub median: f64,
    /// GFLOP/s, GOP/s, GB/s or us.
    pub unit: String,
    /// By how much the median run was worse than the best, in percent.
    pub spread_percent: f64,
    /// How many were timed.
    pub runs: usize,
    /// What was run.
    pub how: String,
    /// What the preset says.
    pub expected: Option<f64>,
}

impl Peaks {
    /// The figures with their names, in the order in which they are shown.
    pub fn rows(&self) -> Vec<(&'static str, &Peak)> {
        let rows = [
            ("f32", Some(&self.f32)),
            ("f16", self.f16.as_ref()),
            ("int8", Some(&self.int8)),
            ("memory read", Some(&self.memory_read)),
            ("memory write", Some(&self.memory_write)),
            ("memory copy", Some(&self.memory_copy)),
            ("local memory", Some(&self.local_memory)),
            ("host to device", Some(&self.host_to_device)),
            ("device to host", Some(&self.device_to_host)),
            ("launch and finish", Some(&self.launch_and_finish)),
            ("launch, back to back", Some(&self.launch_back_to_back)),
        ];
        rows.into_iter().filter_map(|(name, peak)| Some((name, peak?))).collect()
    }

    /// The quickest of reading, writing and copying, in GB/s.
    pub fn memory_gb_s(&self) -> f64 {
        [&self.memory_read, &self.memory_write, &self.memory_copy]
            .map(|peak| peak.value)
            .into_iter()
            .fold(0.0, f64::max)
    }

    /// The file in `folder`, a cache folder, that keeps the peaks of a device and its driver.
    pub fn path(folder: &Path, info: &DeviceInfo) -> PathBuf {
        let mut hash = Sha256::new();
        for text in [info.backend, &info.name, &info.platform, &info.driver] {
            hash.update((text.len() as u64).to_le_bytes());
            hash.update(text);
        }
        // The number of threads can be changed from outside.
        hash.update(info.compute_units.to_le_bytes());
        let name: String = hash.finalize()[..16].iter().map(|byte| format!("{byte:02x}")).collect();
        folder.join("peaks").join(format!("{}-{name}.json", info.backend))
    }

    /// What is kept in `folder` of a device; `None` if nothing is.
    ///
    /// # Errors
    ///
    /// [`Error::File`] if there is a file that cannot be read or is no record of this device.
    pub fn load(folder: &Path, info: &DeviceInfo) -> Result<Option<Self>> {
        let path = Self::path(folder, info);
        let refuse = |detail: String| Err(Error::file(&path, detail));
        match std::fs::metadata(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return refuse(format!("cannot be read: {error}")),
            Ok(found) if !found.is_file() || found.len() > MOST_BYTES => {
                return refuse("expected a record of peaks, got something else".to_owned());
            }
            Ok(_) => {}
        }
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) => return refuse(format!("cannot be read: {error}")),
        };
        match serde_json::from_slice::<Self>(&text) {
            Err(error) => refuse(format!("expected a record of peaks: {error}")),
            Ok(peaks) if peaks.is_of(info) => Ok(Some(peaks)),
            Ok(_) => refuse("expected a record of this device's peaks".to_owned()),
        }
    }

    /// Keeps these peaks in `folder`; where they lie then.
    ///
    /// # Errors
    ///
    /// [`Error::File`] if the folder cannot be written.
    pub fn save(&self, folder: &Path, info: &DeviceInfo) -> Result<PathBuf> {
        let path = Self::path(folder, info);
        let parent = path.parent().expect("the path has a folder");
        std::fs::create_dir_all(parent)
            .map_err(|error| Error::file(parent, format!("cannot be made: {error}")))?;
        let text = serde_json::to_string_pretty(self).expect("peaks are numbers and texts");
        atomic::write(&path, |file| std::io::Write::write_all(file, text.as_bytes()))?;
        Ok(path)
    }

    /// Whether these are a device's, all of them positive numbers.
    fn is_of(&self, info: &DeviceInfo) -> bool {
        let own = [&self.backend, &self.device, &self.platform, &self.driver];
        let theirs = [info.backend, &info.name, &info.platform, &info.driver];
        let positive = |(_, peak): (_, &Peak)| peak.value.is_finite() && peak.value > 0.0;
        self.format == FORMAT && own == theirs && self.rows().into_iter().all(positive)
    }
}

/// Measures every peak of a device: a few seconds. `progress` is told what comes next.
///
/// # Errors
///
/// [`Error::OutOfMemory`] if the device has no room for two arrays of 1 MiB; [`Error::Device`] and
/// [`Error::Build`] if its driver fails.
pub fn measure(device: &Device, mut progress: impl FnMut(&str)) -> Result<Peaks> {
    let begin = Instant::now();
    let info = device.info();
    let preset = Preset::find(info);
    let of = |figure: fn(&Preset) -> Option<f64>| preset.as_ref().and_then(figure);
    progress("f32");
    let f32 = fma(device, DType::F32)?.expect(|| of(|preset| Some(preset.f32_gflop_s)));
    progress("f16");
    // A device that has no such arithmetic has a compiler that says so.
    let f16 = match fma(device, DType::F16) {
        Ok(peak) => Some(peak.expect(|| of(|preset| preset.f16_gflop_s))),
        Err(Error::Build { .. }) => None,
        Err(error) => return Err(error),
    };
    progress("int8");
    let int8 = match int8(device, true) {
        Err(Error::Build { .. }) => int8(device, false),
        other => other,
    };
    let int8 = int8?.expect(|| of(|preset| preset.int8_gop_s));
    progress("local memory");
    let local_memory = local(device)?.expect(|| of(|preset| preset.local_memory_gb_s));
    progress("memory");
    let [memory_read, memory_write, memory_copy] =
        memory(device)?.map(|peak| peak.expect(|| of(|preset| preset.memory_gb_s)));
    progress("transfers");
    let [host_to_device, device_to_host] = transfers(device)?;
    progress("launches");
    let [launch_and_finish, launch_back_to_back] = launches(device)?;
    device.memory().trim();
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    Ok(Peaks {
        format: FORMAT.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        measured_at: since.map_or(0, |since| since.as_secs()),
        backend: info.backend.to_owned(),
        device: info.name.clone(),
        platform: info.platform.clone(),
        driver: info.driver.clone(),
        preset: preset.map(|preset| preset.facts),
        seconds: begin.elapsed().as_secs_f64(),
        f32,
        f16,
        int8,
        memory_read,
        memory_write,
        memory_copy,
        local_memory,
        host_to_device,
        device_to_host,
        launch_and_finish,
        launch_back_to_back,
    })
}

impl Peak {
    /// Of `work` (in units of 10^9 a second) that took so many seconds in each run.
    fn rate(work: f64, unit: &str, seconds: &[f64], how: String) -> Self {
        let rate = |seconds: f64| work / seconds.max(1e-9) / 1e9;
        let median = seconds[seconds.len() / 2];
        Self {
            value: rate(seconds[0]),
            median: rate(median),
            unit: unit.to_owned(),
            spread_percent: 100.0 * (median / seconds[0].max(1e-9) - 1.0),
            runs: seconds.len(),
            how,
            expected: None,
        }
    }

    fn microseconds(launches: usize, seconds: &[f64], how: &str) -> Self {
        let each = |seconds: f64| seconds / launches as f64 * 1e6;
        let median = seconds[seconds.len() / 2];
        Self {
            value: each(seconds[0]),
            median: each(median),
            unit: "us".to_owned(),
            spread_percent: 100.0 * (median / seconds[0].max(1e-9) - 1.0),
            runs: seconds.len(),
            how: how.to_owned(),
            expected: None,
        }
    }

    fn expect(self, expected: impl FnOnce() -> Option<f64>) -> Self {
        Self { expected: expected(), ..self }
    }
}

/// The seconds of each run by the host's clock, until the device has finished, the shortest first.
fn sample(device: &Device, time: Duration, run: impl Fn() -> Result<()>) -> Result<Vec<f64>> {
    let begin = Instant::now();
    timed(device, |runs| runs < FEWEST || begin.elapsed() < time, run)
}

/// The same of so many runs, fewer if they take long.
fn sample_times(device: &Device, times: usize, run: impl Fn() -> Result<()>) -> Result<Vec<f64>> {
    let begin = Instant::now();
    timed(device, |runs| runs == 0 || (runs < times && begin.elapsed() < 8 * SHORTEST), run)
}

fn timed(
    device: &Device,
    go_on: impl Fn(usize) -> bool,
    run: impl Fn() -> Result<()>,
) -> Result<Vec<f64>> {
    let mut seconds = Vec::new();
    while go_on(seconds.len()) {
        let start = Instant::now();
        run()?;
        device.finish()?;
        seconds.push(start.elapsed().as_secs_f64());
    }
    seconds.sort_by(f64::total_cmp);
    Ok(seconds)
}

/// More turns or launches than this are not asked for.
const MOST: usize = 1 << 24;

/// How much of something takes long enough to be timed: `run` is asked for more and more.
fn enough(device: &Device, first: usize, run: impl Fn(usize) -> Result<()>) -> Result<usize> {
    let mut count = first;
    loop {
        // The best of three: one that the machine disturbed says nothing.
        let seconds = sample_times(device, 3, || run(count))?;
        let elapsed = Duration::from_secs_f64(seconds[0]);
        if elapsed >= SHORTEST || count >= MOST {
            return Ok(count);
        }
        // At most eightfold: the first run also builds the program, or wakes the device.
        let missing = SHORTEST.as_secs_f64() * 1.3 / elapsed.as_secs_f64().max(1e-6);
        count = (count as f64 * missing.clamp(1.3, 8.0)).ceil() as usize;
    }
}

/// How much is enough, and the seconds of each run of so much, the shortest first.
///
/// On a machine that does much else every run of a calibration may have been disturbed: when the
/// best of many shows that less than enough was asked for, more is.
fn measured(
    device: &Device,
    first: usize,
    run: impl Fn(usize) -> Result<()>,
) -> Result<(usize, Vec<f64>)> {
    let mut count = enough(device, first, &run)?;
    for _ in 0..3 {
        let seconds = sample(device, TIME, || run(count))?;
        let missing = SHORTEST.as_secs_f64() / seconds[0].max(1e-7);
        if missing < 2.0 || count >= MOST {
            return Ok((count, seconds));
        }
        count = (count as f64 * missing).ceil() as usize;
    }
    Ok((count, sample(device, TIME, || run(count))?))
}

/// The work of the launches since it was asked last.
fn work_since(device: &Device, before: crate::profile::Work) -> crate::profile::Work {
    let now = device.work();
    crate::profile::Work { flop: now.flop - before.flop, bytes: now.bytes - before.bytes }
}

/// Times runs of more and more turns; the rate follows from what one launch counts as its work.
fn arithmetic(
    device: &Device,
    unit: &str,
    run: impl Fn(usize) -> Result<Tensor>,
    work: fn(crate::profile::Work) -> u64,
    how: impl FnOnce(usize) -> String,
) -> Result<Peak> {
    // Builds the program.
    run(1)?;
    device.finish()?;
    let (turns, seconds) = measured(device, 64, |turns| run(turns).map(drop))?;
    let before = device.work();
    run(turns)?;
    let work = work(work_since(device, before)) as f64;
    Ok(Peak::rate(work, unit, &seconds, how(turns)))
}

/// Vectors, or work-items, that keep every compute unit busy and share out evenly.
fn items(device: &Device) -> usize {
    let units = device.info().compute_units as usize;
    if device.info().prefers_register_tiles() { units * 16 } else { units * 2048 }
}

fn fma(device: &Device, arithmetic_type: DType) -> Result<Peak> {
    let lanes = device.info().vector_width.clamp(4, 16) as usize;
    let elements = items(device) * lanes;
    let values: Vec<f32> = (0..elements).map(|index| (index % 97) as f32 / 97.0).collect();
    let x = Tensor::from_slice(device, &[elements], DType::F32, &values)?;
    let run = |turns| ops::peak_fma(&x, turns, arithmetic_type);
    let how = |turns| format!("{elements} elements, {turns} multiply-adds in each chain");
    arithmetic(device, "GFLOP/s", run, |work| work.flop, how)
}

fn int8(device: &Device, dot: bool) -> Result<Peak> {
    let words = items(device) * if device.info().prefers_register_tiles() { 16 } else { 1 };
    let how = |_| match dot {
        true => "the device's dot product of four bytes".to_owned(),
        false => "plain multiply-adds of widened bytes: no dot product".to_owned(),
    };
    let run = |turns| ops::peak_int8(device, words, turns, dot);
    arithmetic(device, "GOP/s", run, |work| work.flop, how)
}

fn local(device: &Device) -> Result<Peak> {
    let values: Vec<f32> = (0..4096).map(|index| (index % 97) as f32 / 97.0).collect();
    let x = Tensor::from_slice(device, &[4096], DType::F32, &values)?;
    let groups = items(device).div_ceil(64).max(16 * device.info().compute_units as usize);
    let own = device.info().local_memory_is_fast;
    let how = |_| match own {
        true => "reads of a tile of 16 KiB".to_owned(),
        false => "reads of a tile of 16 KiB, which is in the cache".to_owned(),
    };
    let run = |turns| ops::peak_local(&x, groups, turns);
    arithmetic(device, "GB/s", run, |work| work.bytes, how)
}

/// An array of 256 MiB, well over the last cache of a processor, if there is room.
fn array_bytes(device: &Device) -> usize {
    let room = device.memory_stats().budget_bytes / 8;
    let most = device.memory().max_allocation_bytes().min(room).min(256 << 20);
    (most.max(1 << 20) >> 20 << 20) as usize
}

fn memory(device: &Device) -> Result<[Peak; 3]> {
    let mut bytes = array_bytes(device);
    // Written on the device: what was never written may not be memory yet.
    let write = |bytes| ops::peak_memory(device, Action::Write(bytes / 4, 1.0));
    let mut x = write(bytes)?;
    device.finish()?;
    // The first write of a block is slower: the system only now gives the memory.
    drop(write(bytes)?);
    device.finish()?;
    let seconds = sample_times(device, 2, || write(bytes).map(drop))?;
    if seconds[0] > 0.1 {
        // A device below 3 GB/s has no cache that a quarter of this would fit.
        bytes = (bytes / 4).max(1 << 20);
        x = write(bytes)?;
    }
    let elements = bytes / 4;
    let peak = |action: Action, touched: usize| {
        let run = |times| (0..times).try_for_each(|_| ops::peak_memory(device, action).map(drop));
        let (times, seconds) = measured(device, 1, run)?;
        let how = format!("arrays of {} MiB", bytes >> 20);
        Ok::<_, Error>(Peak::rate((touched * times) as f64, "GB/s", &seconds, how))
    };
    Ok([
        peak(Action::Read(&x), bytes)?,
        peak(Action::Write(elements, 2.0), bytes)?,
        peak(Action::Copy(&x), 2 * bytes)?,
    ])
}

fn transfers(device: &Device) -> Result<[Peak; 2]> {
    let bytes = array_bytes(device).min(64 << 20);
    let block = device.memory().allocate(bytes as u64, Lifetime::Transient)?;
    let host = std::cell::RefCell::new(vec![1u8; bytes]);
    let write = || device.backend().write(block.buffer(), 0, &host.borrow());
    let read = || device.backend().read(block.buffer(), 0, &mut host.borrow_mut());
    let peak = |seconds: &[f64]| {
        Peak::rate(bytes as f64, "GB/s", seconds, format!("{} MiB at once", bytes >> 20))
    };
    write()?;
    let written = sample(device, TIME / 2, write)?;
    let read_back = sample(device, TIME / 2, read)?;
    Ok([peak(&written), peak(&read_back)])
}

fn launches(device: &Device) -> Result<[Peak; 2]> {
    const MANY: usize = 200;
    let run = || ops::peak_launch(device, 1.0).map(drop);
    run()?;
    device.finish()?;
    let alone = sample(device, TIME / 3, run)?;
    let many = sample(device, TIME / 3, || (0..MANY).try_for_each(|_| run()))?;
    Ok([
        Peak::microseconds(1, &alone, "one launch of one work-item, then finish"),
        Peak::microseconds(MANY, &many, "200 launches of one work-item, then finish"),
    ])
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Peaks that nobody measured: 100 GFLOP/s, 10 GB/s, local memory 200 GB/s, 5 us a launch.
    pub fn made_up(info: &DeviceInfo) -> Peaks {
        let peak = |value: f64, unit: &str| Peak {
            value,
            median: value,
            unit: unit.to_owned(),
            spread_percent: 0.0,
            runs: 5,
            how: String::new(),
            expected: None,
        };
        Peaks {
            format: FORMAT.to_owned(),
            version: "0".to_owned(),
            measured_at: 0,
            backend: info.backend.to_owned(),
            device: info.name.clone(),
            platform: info.platform.clone(),
            driver: info.driver.clone(),
            preset: None,
            seconds: 0.0,
            f32: peak(100.0, "GFLOP/s"),
            f16: None,
            int8: peak(100.0, "GOP/s"),
            memory_read: peak(10.0, "GB/s"),
            memory_write: peak(8.0, "GB/s"),
            memory_copy: peak(9.0, "GB/s"),
            local_memory: peak(200.0, "GB/s"),
            host_to_device: peak(5.0, "GB/s"),
            device_to_host: peak(5.0, "GB/s"),
            launch_and_finish: peak(20.0, "us"),
            launch_back_to_back: peak(5.0, "us"),
        }
    }

    #[test]
    fn peaks_are_kept_for_one_device_and_driver() {
        let folder = tempfile::tempdir().unwrap();
        let info = Device::cpu().info().clone();
        assert_eq!(Peaks::load(folder.path(), &info).unwrap(), None);
        let peaks = made_up(&info);
        peaks.save(folder.path(), &info).unwrap();
        assert_eq!(Peaks::load(folder.path(), &info).unwrap(), Some(peaks.clone()));
        let newer = DeviceInfo { driver: "newer".to_owned(), ..info.clone() };
        assert_eq!(Peaks::load(folder.path(), &newer).unwrap(), None);
    }

    #[test]
    fn a_file_that_is_no_record_of_the_device_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let info = Device::cpu().info().clone();
        let good = made_up(&info);
        let path = good.save(folder.path(), &info).unwrap();
        let mut zero = good.clone();
        zero.f32.value = 0.0;
        let other = Peaks { driver: "another".to_owned(), ..good };
        let text = |peaks: &Peaks| serde_json::to_string(peaks).unwrap();
        for (why, text) in [
            ("empty", String::new()),
            ("another format", "{\"format\": 3}".to_owned()),
            ("a peak of nothing", text(&zero)),
            ("another driver's", text(&other)),
        ] {
            std::fs::write(&path, text).unwrap();
            let error = Peaks::load(folder.path(), &info).unwrap_err().to_string();
            assert!(error.contains(": expected a record of"), "{why}: {error}");
            assert!(!error.contains('\n'), "{why}");
        }
    }
}
