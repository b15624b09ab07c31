//! Noise and schedulers against goldens that diffusers and torch wrote; `tests/golden/README.md`
//! says what each holds.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::slice::from_mut;

use ellesmere::pipeline::noise::Generator;
use ellesmere::pipeline::scheduler::{Scheduler, SchedulerConfig, SchedulerKind};
use safetensors::SafeTensors;
use serde_json::Value;

/// Values of a sample: `[1, 4, 4, 4]`.
const COUNT: usize = 64;
/// Of the noise inside steps.
const NOISE_SEED: u64 = 7;

fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn golden_json(name: &str) -> Vec<Value> {
    serde_json::from_slice(&fs::read(golden(name)).unwrap()).unwrap()
}

/// The formula of the goldens' inputs: splitmix64 from the FNV-1a hash of the name.
fn normal_like(name: &str) -> Vec<f32> {
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325, |state: u64, byte| {
        (state ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    let value = |index: usize| {
        let mut z = hash.wrapping_add((index as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        let unit = (z >> 11) as f64 * 2f64.powi(-53);
        ((2.0 * unit - 1.0) * 3f64.sqrt()) as f32
    };
    (0..COUNT).map(value).collect()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
}

/// The largest difference over the largest value.
fn difference(ours: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(ours.len(), expected.len());
    let pairs = ours.iter().zip(expected);
    let largest = expected.iter().map(|value| value.abs()).fold(0.0, f32::max);
    let worst =
        pairs.map(|(ours, expected)| f64::from((ours - expected).abs())).fold(0.0, f64::max);
    assert!(ours.iter().all(|value| value.is_finite()));
    worst / f64::from(largest)
}

#[test]
fn noise_is_what_torch_draws() {
    // The uniforms are the same bits and angles are rounded the same way. Left over: logarithm,
    // sine and cosine, each one unit in the last place off at most; the square root halves the
    // first of them; then one rounding more on each side. Together 2.5 units of 2^-23.
    let tolerance = 2.5 * f64::from(f32::EPSILON);
    let mut worst = 0f64;
    for case in golden_json("noise.json") {
        let seed = case["seed"].as_str().unwrap();
        let mut generator = Generator::new(seed.parse().unwrap());
        for draw in case["draws"].as_array().unwrap() {
            let size = draw["size"].as_u64().unwrap() as usize;
            let values = generator.normal(size);
            let mut compare = |ours: &[f32], expected: &Value| {
                let expected = numbers(expected);
                assert_eq!(ours.len(), expected.len());
                for (&ours, expected) in ours.iter().zip(expected) {
                    let error = (f64::from(ours) - expected).abs() / expected.abs();
                    assert!(error <= tolerance, "seed {seed}, {size}: {ours} for {expected}");
                    worst = worst.max(error);
                }
            };
            if let Some(expected) = draw.get("values") {
                compare(&values, expected);
                continue;
            }
            compare(&values[..20], &draw["first"]);
            compare(&values[size - 20..], &draw["last"]);
            let wide = || values.iter().map(|&value| f64::from(value));
            let magnitude: f64 = wide().map(f64::abs).sum();
            let sum_error = (wide().sum::<f64>() - draw["sum"].as_f64().unwrap()).abs();
            assert!(sum_error <= tolerance * magnitude, "seed {seed}, {size}: sum");
            let squares: f64 = wide().map(|value| value * value).sum();
            let square_error = (squares - draw["sum_of_squares"].as_f64().unwrap()).abs();
            assert!(square_error <= 2.0 * tolerance * squares, "seed {seed}, {size}: squares");
        }
    }
    println!("noise: worst relative difference {worst:.1e}");
}

/// What a case says, and what its arrays hold.
struct Case<'a> {
    described: &'a Value,
    arrays: &'a SafeTensors<'a>,
}

impl Case<'_> {
    fn name(&self) -> &str {
        self.described["name"].as_str().unwrap()
    }

    fn array(&self, what: &str) -> Vec<f32> {
        let tensor = self.arrays.tensor(&format!("{}/{what}", self.name())).unwrap();
        let (values, _) = tensor.data().as_chunks::<4>();
        values.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()
    }

    fn scheduler(&self) -> Scheduler {
        let config = SchedulerConfig::from_json(&self.described["config"].to_string()).unwrap();
        let kind: SchedulerKind = self.described["scheduler"].as_str().unwrap().parse().unwrap();
        let eta = self.described.get("eta").map_or(0.0, |eta| eta.as_f64().unwrap());
        let steps = self.described["steps"].as_u64().unwrap() as usize;
        let mut scheduler = Scheduler::new(&config.with_kind(kind).with_eta(eta), steps).unwrap();
        if let Some(strength) = self.described.get("strength") {
            scheduler.start_from_strength(strength.as_f64().unwrap()).unwrap();
        }
        scheduler
    }

    fn check_timesteps(&self, scheduler: &Scheduler) {
        let expected = numbers(&self.described["timesteps"]);
        let ours = scheduler.timesteps();
        assert_eq!(ours.len(), expected.len(), "{}", self.name());
        for (&ours, expected) in ours.iter().zip(expected) {
            // Whole ones are exact. Those between, where sigmas decide, are interpolated between
            // logarithms of sigma that are 0.003 apart or more and one unit of 2^-22 off at most
            // on both sides; then they are rounded to f32.
            let between = 2.0 * 2f64.powi(-22) / 0.003 + expected * 2f64.powi(-24);
            let tolerance = if expected.fract() == 0.0 { 0.0 } else { between };
            let error = (f64::from(ours) - expected).abs();
            assert!(error <= tolerance, "{}: timestep {ours} for {expected}", self.name());
        }
    }

    /// The whole way of one picture; the largest difference of any input or sample.
    fn check_trajectory(&self, scheduler: &mut Scheduler) -> f64 {
        let mut worst = 0f64;
        let mut sample = if self.described.get("strength").is_some() {
            let noise = normal_like("scheduler.noise");
            let sample = scheduler.add_noise(&normal_like("scheduler.image"), &noise).unwrap();
            worst = worst.max(difference(&sample, &self.array("noised")));
            sample
        } else {
            let mut sample = normal_like("scheduler.sample");
            scheduler.scale_initial_noise(&mut sample);
            sample
        };
        let mut generator = Generator::new(NOISE_SEED);
        let (inputs, samples) = (self.array("inputs"), self.array("samples"));
        for index in 0..scheduler.timesteps().len() {
            let input = scheduler.scale_model_input(&sample, index).unwrap();
            let range = index * COUNT..(index + 1) * COUNT;
            worst = worst.max(difference(&input, &inputs[range.clone()]));
            let drift = normal_like(&format!("scheduler.model_output.{index}"));
            let output: Vec<f32> =
                input.iter().zip(drift).map(|(input, drift)| 0.5 * input + 0.1 * drift).collect();
            scheduler.step(&output, &mut sample, from_mut(&mut generator)).unwrap();
            worst = worst.max(difference(&sample, &samples[range]));
        }
        worst
    }
}

#[test]
fn every_trajectory_is_that_of_diffusers() {
    // A step rounds about eight times, at the size of the sample, and is linear in the sample, so
    // that what was rounded before shrinks and grows as the sample does. Over 20 steps that is
    // 20 * 8 * 2^-24 = 1e-5 of the sample, and Heun's two calls make one step. Torch's own square
    // root and logarithm are up to one unit off, in the factors of a step, which is as little.
    let tolerance = 160.0 * 2f64.powi(-24);
    let bytes = fs::read(golden("schedulers/trajectories.safetensors")).unwrap();
    let arrays = SafeTensors::deserialize(&bytes).unwrap();
    let mut worst = BTreeMap::new();
    let mut failures = Vec::new();
    for described in golden_json("schedulers/cases.json") {
        let case = Case { described: &described, arrays: &arrays };
        let mut scheduler = case.scheduler();
        case.check_timesteps(&scheduler);
        let expected = described["init_noise_sigma"].as_f64().unwrap();
        let sigma_error = (f64::from(scheduler.init_noise_sigma()) - expected).abs() / expected;
        let error = case.check_trajectory(&mut scheduler).max(sigma_error);
        scheduler.reset();
        let again = case.check_trajectory(&mut scheduler).max(sigma_error);
        assert_eq!(error, again, "{}: not the same after a reset", case.name());
        if error > tolerance {
            failures.push(format!("{}: {error:.1e}", case.name()));
        }
        let most = worst.entry(scheduler.kind().name()).or_insert((0f64, String::new()));
        if error >= most.0 {
            *most = (error, case.name().to_owned());
        }
    }
    for (name, (error, case)) in &worst {
        println!("{name}: worst relative difference {error:.1e} ({case})");
    }
    assert_eq!(worst.len(), SchedulerKind::ALL.len());
    assert!(failures.is_empty(), "beyond {tolerance:.1e}: {failures:#?}");
}
