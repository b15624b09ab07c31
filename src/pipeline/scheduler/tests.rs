//! What holds for every scheduler, and steps worked out by hand.

use std::slice::from_mut;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const ORIGINAL: [f32; 4] = [0.5, -0.25, 0.75, -1.0];

/// As Stable Diffusion 1 and 2 have it.
fn stable_diffusion(kind: SchedulerKind) -> SchedulerConfig {
    SchedulerConfig::new(kind)
        .with("beta_start", 0.00085)
        .with("beta_end", 0.012)
        .with("beta_schedule", "scaled_linear")
        .with("skip_prk_steps", true)
        .for_stable_diffusion()
}

/// Three timesteps of training with cumulative alphas 1/2, 1/4 and 1/16: sigmas 1, 3^0.5, 15^0.5.
fn three_timesteps(kind: SchedulerKind) -> SchedulerConfig {
    SchedulerConfig::new(kind)
        .with("num_train_timesteps", 3)
        .with("trained_betas", json!([0.5, 0.5, 0.75]))
        .with("timestep_spacing", "linspace")
        .with("clip_sample", false)
}

/// The way of a picture whose model always says the right thing.
fn with_perfect_model(
    scheduler: &mut Scheduler,
    prediction: &str,
    generator: Generator,
) -> Vec<f32> {
    let mut generators = [generator];
    let noise = generators[0].normal(ORIGINAL.len());
    let mut sample = scheduler.add_noise(&ORIGINAL, &noise).unwrap();
    for index in 0..scheduler.timesteps().len() {
        let (signal, sigma) = scheduler.solver.mix(scheduler.begin + index);
        // Of a sample of variance 1 the velocity is that, of others as their model sees them.
        let scale = (signal * signal + sigma * sigma).sqrt();
        let pairs = ORIGINAL.iter().zip(&sample);
        let output: Vec<f32> = pairs
            .map(|(original, sample)| {
                let noise = (sample - signal * original) / sigma;
                match prediction {
                    "epsilon" => noise,
                    "v_prediction" => (signal * noise - sigma * original) / scale,
                    _ => *original,
                }
            })
            .collect();
        scheduler.step(&output, &mut sample, &mut generators).unwrap();
    }
    sample
}

#[test]
fn a_perfect_model_leads_to_the_original() {
    for kind in SchedulerKind::ALL {
        for prediction in ["epsilon", "v_prediction", "sample"] {
            let lacks_sample = [SchedulerKind::Pndm, SchedulerKind::EulerAncestral].contains(&kind);
            if prediction == "sample" && lacks_sample {
                continue;
            }
            for (steps, strength) in [(1, 1.0), (2, 1.0), (5, 1.0), (20, 1.0), (20, 0.45)] {
                if kind == SchedulerKind::Pndm && (strength < 1.0 || prediction != "epsilon") {
                    // As in diffusers, a cut takes the call that goes over the first step again,
                    // and the calls after it are one timestep ahead of their samples. And it takes
                    // means of outputs, of which only the noise is the same at every timestep.
                    continue;
                }
                let config = stable_diffusion(kind)
                    .with("prediction_type", prediction)
                    // So that the last step goes all the way.
                    .with("set_alpha_to_one", true)
                    .with_eta(0.5);
                let mut scheduler = Scheduler::new(&config, steps).unwrap();
                scheduler.start_from_strength(strength).unwrap();
                let sample = with_perfect_model(&mut scheduler, prediction, Generator::new(1));
                // The model divides by the noise's factor and the scheduler by the signal's, at
                // most 1/15 and at the last of the timesteps 1/30: either makes units of 2^-24
                // 30 times as large, at each of the steps. LCM keeps a part of the sample too,
                // 0.25 / (10 * 19)^2 of it at its lowest timestep.
                let rounding = 30.0 * 2f32.powi(-24) * 4.0 * scheduler.timesteps().len() as f32;
                let kept = if kind == SchedulerKind::Lcm { 3e-5 } else { 0.0 };
                for (sample, original) in sample.iter().zip(ORIGINAL) {
                    let error = (sample - original).abs();
                    assert!(error <= rounding + kept, "{kind} {prediction} {steps}: {error}");
                }
            }
        }
    }
}

#[test]
fn single_steps_are_as_worked_out_by_hand() {
    let root = f64::sqrt;
    // Of sample 2 and output 1, predicting noise, at the highest of three timesteps.
    let cases = [
        // The derivative is the noise itself: 2 + 1 * (next sigma - sigma).
        (SchedulerKind::Euler, 2.0 + root(3.0) - root(15.0)),
        (SchedulerKind::Heun, 2.0 + root(3.0) - root(15.0)),
        // From signal 1/4, sigma (15/16)^0.5 to signal 1/2, sigma (3/4)^0.5.
        (SchedulerKind::Ddim, (2.0 - root(15.0 / 16.0)) / 0.25 * 0.5 + root(0.75)),
        (SchedulerKind::Pndm, (2.0 - root(15.0 / 16.0)) / 0.25 * 0.5 + root(0.75)),
    ];
    for (kind, expected) in cases {
        let config = three_timesteps(kind).with("skip_prk_steps", true);
        let mut scheduler = Scheduler::new(&config, 3).unwrap();
        assert_eq!(scheduler.timesteps()[0], 2.0, "{kind}");
        let mut sample = [2.0];
        scheduler.step(&[1.0], &mut sample, &mut [Generator::new(0)]).unwrap();
        let error = (f64::from(sample[0]) - expected).abs();
        assert!(error < 8.0 * f64::from(f32::EPSILON), "{kind}: {} for {expected}", sample[0]);
    }
}

#[test]
fn ancestral_noise_makes_up_for_the_step_below_the_next_sigma() {
    let config = three_timesteps(SchedulerKind::EulerAncestral);
    let mut scheduler = Scheduler::new(&config, 3).unwrap();
    let mut sample = [2.0];
    scheduler.step(&[1.0], &mut sample, &mut [Generator::new(5)]).unwrap();
    // up^2 = 3 * (15 - 3) / 15 = 2.4, down^2 = 3 - 2.4.
    let noise = f64::from(Generator::new(5).normal(1)[0]);
    let expected = 2.0 + (0.6f64.sqrt() - 15f64.sqrt()) + noise * 2.4f64.sqrt();
    assert!((f64::from(sample[0]) - expected).abs() < 8.0 * f64::from(f32::EPSILON));
}

#[test]
fn the_first_sample_has_the_deviation_that_the_spacing_asks_for() {
    let sigma = |spacing: &str| {
        let config = three_timesteps(SchedulerKind::Euler).with("timestep_spacing", spacing);
        Scheduler::new(&config, 3).unwrap().init_noise_sigma()
    };
    assert_eq!(sigma("linspace"), 15f32.sqrt());
    assert_eq!(sigma("trailing"), 15f32.sqrt());
    // (15 + 1)^0.5.
    assert!((sigma("leading") - 4.0).abs() <= 4.0 * f32::EPSILON);
    let scheduler = Scheduler::new(&three_timesteps(SchedulerKind::Euler), 3).unwrap();
    let mut noise = [1.0, -2.0];
    scheduler.scale_initial_noise(&mut noise);
    assert_eq!(noise, [15f32.sqrt(), -2.0 * 15f32.sqrt()]);
    // sigma^2 + 1 is 4 at timestep 1.
    let input = scheduler.scale_model_input(&[1.0, -2.0], 1).unwrap();
    assert!((input[0] - 0.5).abs() <= f32::EPSILON && (input[1] + 1.0).abs() <= f32::EPSILON);
}

#[test]
fn strength_leaves_out_the_first_steps() {
    let cases = [
        // Name, steps, strength, calls left, first timestep: leading, 50 apart, offset 1.
        (SchedulerKind::Ddim, 20, 1.0, 20, 951.0),
        (SchedulerKind::Ddim, 20, 0.5, 10, 451.0),
        // 0.7 * 10 is a little more than 7 in f64, 0.57 * 100 a little less than 57.
        (SchedulerKind::Ddim, 10, 0.7, 7, 601.0),
        (SchedulerKind::Ddim, 100, 0.57, 56, 551.0),
        // PNDM's additional call is the second, so what is left starts one call earlier.
        (SchedulerKind::Pndm, 20, 0.5, 11, 501.0),
        // Two calls a step, but one for the last.
        (SchedulerKind::Heun, 20, 0.5, 19, 451.0),
        (SchedulerKind::Lcm, 5, 0.5, 2, 399.0),
    ];
    for (kind, steps, strength, calls, first) in cases {
        let config = stable_diffusion(kind).with("timestep_spacing", "leading");
        let mut scheduler = Scheduler::new(&config, steps).unwrap();
        scheduler.start_from_strength(strength).unwrap();
        let timesteps = scheduler.timesteps();
        assert_eq!((timesteps.len(), timesteps[0]), (calls, first), "{kind} {strength}");
    }
}

#[test]
fn a_batch_is_stepped_as_its_pictures_are() {
    for kind in SchedulerKind::ALL {
        let config = stable_diffusion(kind).with_eta(1.0);
        let mut generators = [Generator::new(3), Generator::new(4)];
        let mut sample = normal_batch(&mut generators, 40).unwrap();
        let mut alone = sample.clone();
        let mut scheduler = Scheduler::new(&config, 4).unwrap();
        for _ in 0..scheduler.timesteps().len() {
            let output: Vec<f32> = sample.iter().map(|value| 0.5 * value).collect();
            scheduler.step(&output, &mut sample, &mut generators).unwrap();
        }
        for (seed, picture) in [3, 4].into_iter().zip(alone.chunks_mut(20)) {
            let mut generator = Generator::new(seed);
            generator.normal(20);
            scheduler.reset();
            for _ in 0..scheduler.timesteps().len() {
                let output: Vec<f32> = picture.iter().map(|value| 0.5 * value).collect();
                scheduler.step(&output, picture, from_mut(&mut generator)).unwrap();
            }
        }
        assert_eq!(sample, alone, "{kind}");
    }
}

#[test]
fn wrong_use_is_an_error_and_changes_nothing() {
    let config = stable_diffusion(SchedulerKind::EulerAncestral);
    let mut scheduler = Scheduler::new(&config, 1).unwrap();
    let mut generators = [Generator::new(0), Generator::new(1)];
    let mut sample = [1.0; 4];
    let mut refused = |scheduler: &mut Scheduler, output: &[f32], sample: &mut [f32], count| {
        let before = sample.to_vec();
        let error = scheduler.step(output, sample, &mut generators[..count]).unwrap_err();
        assert_eq!(before, sample);
        error.to_string()
    };
    assert_eq!(
        refused(&mut scheduler, &[1.0; 3], &mut sample, 1),
        "scheduler step: model output must have 4 values, got 3"
    );
    assert_eq!(
        refused(&mut scheduler, &[1.0; 4], &mut sample, 0),
        "generators: expected a number that divides 4 values, got 0"
    );
    assert_eq!(
        refused(&mut scheduler, &[1.0; 3], &mut [1.0; 3], 2),
        "generators: expected a number that divides 3 values, got 2"
    );
    scheduler.step(&[1.0; 4], &mut sample, &mut [Generator::new(0)]).unwrap();
    assert_eq!(
        refused(&mut scheduler, &[1.0; 2], &mut [1.0; 2], 1),
        "scheduler step: sample must have 4 values, got 2"
    );
    assert_eq!(
        refused(&mut scheduler, &[1.0; 4], &mut sample, 1),
        "scheduler step: expected at most 1 steps, got one more"
    );
    assert_eq!(
        scheduler.start_from_strength(1.0).unwrap_err().to_string(),
        "strength: expected before the first step, got after"
    );
    scheduler.reset();
    scheduler.step(&[1.0; 2], &mut [1.0; 2], &mut [Generator::new(0)]).unwrap();
    assert_eq!(
        scheduler.scale_model_input(&sample, 1).unwrap_err().to_string(),
        "timestep index: expected less than 1, got 1"
    );
    assert_eq!(
        scheduler.add_noise(&[1.0; 2], &[1.0; 3]).unwrap_err().to_string(),
        "scheduler add_noise: noise must have 2 values, got 3"
    );
}

#[test]
fn strength_out_of_range_is_refused() {
    let mut scheduler = Scheduler::new(&stable_diffusion(SchedulerKind::Ddim), 20).unwrap();
    let cases = [
        (-0.1, "strength: expected 0 to 1, got -0.1"),
        (1.1, "strength: expected 0 to 1, got 1.1"),
        (f64::NAN, "strength: expected 0 to 1, got NaN"),
        (0.04, "strength: expected at least 0.05, got 0.04: no step of 20 left"),
    ];
    for (strength, expected) in cases {
        let error = scheduler.start_from_strength(strength).unwrap_err();
        assert_eq!(error.to_string(), expected);
    }
    assert_eq!(scheduler.timesteps().len(), 20);
}

#[test]
fn what_a_scheduler_cannot_do_is_refused_before_the_first_step() {
    let zero_snr = |kind| {
        SchedulerConfig::new(kind)
            .with("rescale_betas_zero_snr", true)
            .with("timestep_spacing", "trailing")
    };
    let offset = SchedulerConfig::new(SchedulerKind::Ddim).with("steps_offset", 1);
    let order = SchedulerConfig::new(SchedulerKind::UniPc).with("lower_order_final", false);
    let cases = [
        (offset.clone(), 0, "steps: expected 1 to 1000, got 0"),
        (offset.clone(), 1001, "steps: expected 1 to 1000, got 1001"),
        (offset, 1000, "steps_offset: expected timesteps of at most 999, got 1000"),
        (
            SchedulerConfig::new(SchedulerKind::Pndm),
            3,
            "steps: expected at least 4 for pndm with skip_prk_steps false, got 3",
        ),
        (
            SchedulerConfig::new(SchedulerKind::Lcm),
            51,
            "steps: expected at most 50 for lcm, got 51",
        ),
        (zero_snr(SchedulerKind::Ddim), 5, "prediction_type: expected v_prediction or sample"),
        (order, 5, "lower_order_final: expected true, got false"),
    ];
    for (config, steps, expected) in cases {
        let error = Scheduler::new(&config, steps).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{error}");
    }
    // From any other sigma than 0 and 1 there is a way.
    assert!(Scheduler::new(&zero_snr(SchedulerKind::Euler), 5).is_ok());
}

#[test]
fn a_scheduler_may_move_between_threads() {
    fn is_send_and_sync<T: Send + Sync>() {}
    is_send_and_sync::<Scheduler>();
    is_send_and_sync::<SchedulerConfig>();
    is_send_and_sync::<Generator>();
}

fn any_field() -> impl Strategy<Value = (&'static str, Value)> {
    let number = |field| (-2.0..2000.0).prop_map(move |value| (field, json!(value)));
    let whole = |field| (-1..60).prop_map(move |value| (field, json!(value)));
    let flag = |field| any::<bool>().prop_map(move |value| (field, json!(value)));
    let word = |field, words: &'static [&'static str]| {
        prop::sample::select(words).prop_map(move |value| (field, json!(value)))
    };
    prop_oneof![
        whole("num_train_timesteps"),
        whole("steps_offset"),
        whole("solver_order"),
        whole("original_inference_steps"),
        number("sigma_min"),
        number("sigma_max"),
        number("lambda_min_clipped"),
        number("timestep_scaling"),
        number("clip_sample_range"),
        flag("use_karras_sigmas"),
        flag("rescale_betas_zero_snr"),
        flag("skip_prk_steps"),
        flag("set_alpha_to_one"),
        flag("lower_order_final"),
        flag("euler_at_final"),
        flag("clip_sample"),
        word("timestep_spacing", &["linspace", "leading", "trailing", "x"]),
        word("prediction_type", &["epsilon", "v_prediction", "sample", "x"]),
        word("beta_schedule", &["linear", "scaled_linear", "squaredcos_cap_v2", "x"]),
        word("final_sigmas_type", &["zero", "sigma_min", "x"]),
        word("solver_type", &["midpoint", "heun", "bh1", "bh2", "x"]),
        word("timestep_type", &["discrete", "continuous", "x"]),
    ]
}

proptest! {
    #[test]
    fn no_configuration_makes_a_scheduler_panic(
        kind in prop::sample::select(SchedulerKind::ALL.as_slice()),
        fields in prop::collection::vec(any_field(), 0..6),
        steps in 0usize..70,
        strength in 0.0..1.1,
    ) {
        let config = fields.into_iter().fold(SchedulerConfig::new(kind), |config, (field, value)| {
            config.with(field, value)
        });
        let Ok(mut scheduler) = Scheduler::new(&config.with_eta(0.5), steps) else { return Ok(()) };
        // An error leaves the whole schedule.
        let _ = scheduler.start_from_strength(strength);
        let mut sample = scheduler.add_noise(&ORIGINAL, &[1.0; 4]).unwrap();
        for index in 0..scheduler.timesteps().len() {
            let input = scheduler.scale_model_input(&sample, index).unwrap();
            scheduler.step(&input, &mut sample, &mut [Generator::new(0)]).unwrap();
        }
    }
}
