//! Whole models against diffusers, by the goldens of `tests/golden`, and what they cost.

#[allow(dead_code, reason = "each test program uses its part")]
mod common;
#[path = "common/random_model.rs"]
mod random_model;

use std::cell::Cell;
use std::fs;
use std::path::Path;

use ellesmere::models::clip::ClipTextEncoder;
use ellesmere::models::config::{FromJson, TextEncoderConfig, UNetConfig, VaeConfig};
use ellesmere::models::files::{ModelFiles, Variant};
use ellesmere::models::unet::UNet;
use ellesmere::models::vae::{VaeDecoder, VaeEncoder};
use ellesmere::nn::TensorSource;
use ellesmere::{DType, Device, DeviceOptions, Result, Tensor};
use safetensors::SafeTensors;
use serde::Deserialize;
use tempfile::TempDir;

const KINDS: [&str; 6] = ["sd15", "sd21-base", "sd21", "bk-base", "bk-small", "bk-tiny"];

/// The inputs of `modules/cases.json`.
#[derive(Deserialize)]
struct Cases {
    unet: Vec<UnetCase>,
    #[serde(rename = "vae.encode")]
    encode: Vec<EncodeCase>,
    #[serde(rename = "vae.decode")]
    decode: Vec<DecodeCase>,
}

#[derive(Deserialize)]
struct UnetCase {
    name: String,
    latent: [usize; 4],
    timestep: f32,
    tokens: usize,
}

#[derive(Deserialize)]
struct EncodeCase {
    name: String,
    image: [usize; 4],
}

#[derive(Deserialize)]
struct DecodeCase {
    name: String,
    latent: [usize; 4],
}

fn cases() -> Cases {
    let path = random_model::golden().join("modules/cases.json");
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// One kind of model, its files and what diffusers answers.
struct Golden {
    kind: &'static str,
    files: ModelFiles,
    outputs: Vec<u8>,
    _folder: TempDir,
}

impl Golden {
    fn open(kind: &'static str) -> Self {
        let folder = random_model::write(kind);
        let files = ModelFiles::open(folder.path(), Variant::Any).unwrap();
        let path = random_model::golden().join(format!("modules/{kind}.safetensors"));
        Self { kind, files, outputs: fs::read(path).unwrap(), _folder: folder }
    }

    fn output(&self, name: &str) -> (Vec<usize>, Vec<f32>) {
        let file = SafeTensors::deserialize(&self.outputs).unwrap();
        let tensor = file.tensor(name).unwrap();
        let values = tensor.data().as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes));
        (tensor.shape().to_vec(), values.collect())
    }

    fn ids(&self) -> Vec<u32> {
        let file = SafeTensors::deserialize(&self.outputs).unwrap();
        let data = file.tensor("text.ids").unwrap();
        data.data().as_chunks().0.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect()
    }

    /// Asserts that a tensor is within `tolerance` of the largest value of what diffusers
    /// answers, which is channels first where it is a picture.
    fn check(&self, name: &str, actual: &Tensor, tolerance: f32) {
        let (shape, expected) = self.output(name);
        let (device, dtype) = (&actual.device().info().name, actual.dtype());
        let why = format!("{} {name} {dtype} on {device}", self.kind);
        let mut actual_shape = actual.shape().to_vec();
        let mut values = actual.to_vec().unwrap();
        if let &[n, h, w, c] = actual.shape() {
            actual_shape = vec![n, c, h, w];
            values = channels_first(&values, [n, h, w, c]);
        }
        assert_eq!(actual_shape, shape, "{why}");
        let largest = expected.iter().fold(0f32, |largest, value| largest.max(value.abs()));
        let differences = values.iter().zip(&expected).map(|(a, e)| (a - e).abs());
        let worst = differences.fold(0f32, |worst, d| if d.is_nan() { d } else { worst.max(d) });
        println!("{why}: {:.1e} of the largest value", worst / largest);
        assert!(worst <= tolerance * largest, "{why}: off by {worst}, largest value {largest}");
    }
}

fn channels_first(values: &[f32], [n, h, w, c]: [usize; 4]) -> Vec<f32> {
    let index = |sample, channel, pixel| (sample * h * w + pixel) * c + channel;
    let positions = (0..n).flat_map(|sample| {
        (0..c).flat_map(move |channel| (0..h * w).map(move |pixel| index(sample, channel, pixel)))
    });
    positions.map(|position| values[position]).collect()
}

/// A tensor channels last of values that are channels first.
fn picture(device: &Device, dtype: DType, [n, c, h, w]: [usize; 4], values: &[f32]) -> Tensor {
    // The same exchange of axes: the "picture" is c high and its "channels" are the pixels.
    let values = channels_first(values, [n, c, 1, h * w]);
    Tensor::from_slice(device, &[n, h, w, c], dtype, &values).unwrap()
}

/// f32 sums in another order than torch's; one rounding of f16 is 5e-4, and roundings of
/// activations along the depth of a model add up like noise, to a few of them.
fn tolerance(dtype: DType) -> f32 {
    match dtype {
        DType::F32 => 1e-4,
        DType::F16 => 5e-3,
    }
}

fn for_every_model(check: impl Fn(&Golden, &Device, DType)) {
    for kind in KINDS {
        let golden = Golden::open(kind);
        // A software rasteriser compiles the kernels of all these sizes for minutes: it draws one
        // whole picture in `pipeline`.
        for device in common::devices().iter().filter(|d| d.info().prefers_register_tiles()) {
            for dtype in DType::ALL {
                check(&golden, device, dtype);
            }
        }
    }
}

#[test]
fn text_encoders_answer_as_transformers_does() {
    for_every_model(|golden, device, dtype| {
        let part = &golden.files.text_encoder;
        let model = ClipTextEncoder::load(device, dtype, &part.config, &part.weights).unwrap();
        let output = model.encode(&golden.ids()).unwrap();
        golden.check("text.output", &output, tolerance(dtype));
    });
}

#[test]
fn unets_answer_as_diffusers_does() {
    let cases = cases().unet;
    for_every_model(|golden, device, dtype| {
        let part = &golden.files.unet;
        let model = UNet::load(device, dtype, &part.config, &part.weights).unwrap();
        for case in &cases {
            let name = format!("unet.{}", case.name);
            let latents = normal_like(&format!("input.{name}.latent"), &case.latent);
            let latents = picture(device, dtype, case.latent, &latents);
            let shape = [case.latent[0], case.tokens, part.config.cross_attention_dim];
            let context = normal_like(&format!("input.{name}.context"), &shape);
            let context = Tensor::from_slice(device, &shape, dtype, &context).unwrap();
            let timesteps = vec![case.timestep; case.latent[0]];
            let output = model.forward(&latents, &timesteps, &context).unwrap();
            golden.check(&format!("{name}.output"), &output, tolerance(dtype));
        }
    });
}

#[test]
fn autoencoders_answer_as_diffusers_does() {
    let cases = cases();
    for_every_model(|golden, device, dtype| {
        let part = &golden.files.vae;
        let encoder = VaeEncoder::load(device, dtype, &part.config, &part.weights).unwrap();
        for case in &cases.encode {
            let name = format!("vae.encode.{}", case.name);
            let image =
                random_model::image(&format!("input.{name}.image"), case.image.iter().product());
            let image: Vec<f32> = image.iter().map(|value| 2.0 * value - 1.0).collect();
            let moments = encoder.encode(&picture(device, dtype, case.image, &image)).unwrap();
            golden.check(&format!("{name}.moments"), &moments, tolerance(dtype));
        }
        let decoder = VaeDecoder::load(device, dtype, &part.config, &part.weights).unwrap();
        for case in &cases.decode {
            let name = format!("vae.decode.{}", case.name);
            let latent = normal_like(&format!("input.{name}.latent"), &case.latent);
            let image = decoder.decode(&picture(device, dtype, case.latent, &latent)).unwrap();
            golden.check(&format!("{name}.image"), &image, tolerance(dtype));
        }
    });
}

fn normal_like(name: &str, shape: &[usize]) -> Vec<f32> {
    random_model::normal_like(name, shape.iter().product())
}

/// Loads and runs everything once.
fn run_all(device: &Device, dtype: DType, files: &ModelFiles, [height, width]: [usize; 2]) {
    let zeros = |shape: &[usize]| {
        Tensor::from_slice(device, shape, dtype, &vec![0.0; shape.iter().product()]).unwrap()
    };
    let (text, unet, vae) = (&files.text_encoder, &files.unet, &files.vae);
    let text = ClipTextEncoder::load(device, dtype, &text.config, &text.weights).unwrap();
    let unet = UNet::load(device, dtype, &unet.config, &unet.weights).unwrap();
    let encoder = VaeEncoder::load(device, dtype, &vae.config, &vae.weights).unwrap();
    let decoder = VaeDecoder::load(device, dtype, &vae.config, &vae.weights).unwrap();
    let context = text.encode(&[0; 2 * 77]).unwrap();
    drop(encoder.encode(&zeros(&[1, 8 * height, 8 * width, 3])).unwrap());
    let latents = zeros(&[2, height, width, 4]);
    drop(unet.forward(&latents, &[1.0; 2], &context).unwrap());
    decoder.decode(&zeros(&[1, height, width, 4])).unwrap().to_vec().unwrap();
}

#[test]
fn a_dry_run_holds_what_the_real_run_holds() {
    let golden = Golden::open("sd15");
    for device in common::open_devices(&DeviceOptions::default()) {
        for dtype in DType::ALL {
            device.memory().trim();
            device.memory().reset_peaks();
            let dry = device.dry_run();
            for device in [&device, &dry] {
                run_all(device, dtype, &golden.files, [8, 11]);
            }
            let (expected, got) = (device.memory_stats(), dry.memory_stats());
            assert_eq!(got.peak_held_bytes, expected.peak_held_bytes, "{dtype}");
            assert_eq!(got.peak_live_bytes, expected.peak_live_bytes, "{dtype}");
        }
    }
}

/// Has every tensor of any shape, without values, and counts their elements.
#[derive(Default)]
struct ShapesAlone {
    parameters: Cell<usize>,
}

impl TensorSource for ShapesAlone {
    fn check(&self, _name: &str, shape: &[usize]) -> Result<()> {
        self.parameters.set(self.parameters.get() + shape.iter().product::<usize>());
        Ok(())
    }

    fn read(&self, name: &str, _shape: &[usize]) -> Result<Vec<f32>> {
        panic!("a dry run reads {name}");
    }
}

/// A component's configuration with some keys as the published model has them.
fn full_size<C: FromJson>(kind: &str, component: &str, keys: serde_json::Value) -> C {
    let path = random_model::golden().join(format!("models/{kind}/{component}/config.json"));
    let mut config: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    for (key, value) in keys.as_object().unwrap() {
        config[key] = value.clone();
    }
    C::from_json(&path, &config.to_string()).unwrap()
}

fn full_size_unet(kind: &str) -> UNetConfig {
    let channels =
        if kind == "bk-tiny" { vec![320, 640, 1280] } else { vec![320, 640, 1280, 1280] };
    let sd2 = kind.starts_with("sd2");
    let heads = if sd2 { serde_json::json!([5, 10, 20, 20]) } else { 8.into() };
    let keys = serde_json::json!({
        "block_out_channels": channels,
        "attention_head_dim": heads,
        "cross_attention_dim": if sd2 { 1024 } else { 768 },
    });
    full_size(kind, "unet", keys)
}

fn full_size_text_encoder(kind: &str) -> TextEncoderConfig {
    let keys = match kind.starts_with("sd2") {
        true => serde_json::json!({
            "vocab_size": 49408, "hidden_size": 1024, "intermediate_size": 4096,
            "num_hidden_layers": 23, "num_attention_heads": 16,
        }),
        false => serde_json::json!({
            "vocab_size": 49408, "hidden_size": 768, "intermediate_size": 3072,
            "num_hidden_layers": 12, "num_attention_heads": 12,
        }),
    };
    full_size(kind, "text_encoder", keys)
}

fn full_size_vae(kind: &str) -> VaeConfig {
    full_size(kind, "vae", serde_json::json!({ "block_out_channels": [128, 256, 512, 512] }))
}

#[test]
fn full_size_models_have_as_many_parameters_as_the_published_ones() {
    let device = Device::cpu().dry_run();
    let count = |load: &dyn Fn(&ShapesAlone)| {
        let source = ShapesAlone::default();
        load(&source);
        source.parameters.get()
    };
    // UNets as the model cards have them, in millions; text encoders and autoencoder exactly.
    let unets = [
        ("sd15", 859.5),
        ("sd21", 865.9),
        ("bk-base", 579.4),
        ("bk-small", 482.3),
        ("bk-tiny", 323.4),
    ];
    for (kind, millions) in unets {
        let config = full_size_unet(kind);
        let parameters = count(&|source| {
            UNet::load(&device, DType::F16, &config, source).unwrap();
        });
        assert_eq!((parameters as f64 / 1e5).round() / 10.0, millions, "{kind}");
    }
    for (kind, expected) in [("sd15", 123_060_480), ("sd21", 340_387_840)] {
        let config = full_size_text_encoder(kind);
        let parameters = count(&|source| {
            ClipTextEncoder::load(&device, DType::F16, &config, source).unwrap();
        });
        assert_eq!(parameters, expected, "{kind}");
    }
    let config = full_size_vae("sd15");
    let parameters = count(&|source| {
        VaeEncoder::load(&device, DType::F16, &config, source).unwrap();
        VaeDecoder::load(&device, DType::F16, &config, source).unwrap();
    });
    assert_eq!(parameters, 83_653_863);
}

#[test]
fn full_size_models_fit_in_3_2_gigabytes_at_512_pixels() {
    for kind in ["sd15", "sd21-base"] {
        let device = Device::cpu().dry_run();
        let (dtype, source) = (DType::F16, ShapesAlone::default());
        let zeros = |shape: &[usize]| {
            Tensor::from_slice(&device, shape, dtype, &vec![0.0; shape.iter().product()]).unwrap()
        };
        let config = full_size_text_encoder(kind);
        let text = ClipTextEncoder::load(&device, dtype, &config, &source).unwrap();
        let unet = UNet::load(&device, dtype, &full_size_unet(kind), &source).unwrap();
        let vae = VaeDecoder::load(&device, dtype, &full_size_vae(kind), &source).unwrap();
        let weights = device.memory_stats().held_bytes;
        // Guidance runs both halves in one batch.
        let context = text.encode(&[0; 2 * 77]).unwrap();
        let latents = zeros(&[2, 64, 64, 4]);
        for _ in 0..2 {
            unet.forward(&latents, &[1.0; 2], &context).unwrap();
        }
        let steps = device.memory_stats();
        // Blocks of the steps' sizes are of no use to the decoder.
        device.memory().trim();
        device.memory().reset_peaks();
        vae.decode(&zeros(&[1, 64, 64, 4])).unwrap();
        let decode = device.memory_stats();
        println!(
            "{kind}: weights {weights} B; steps held {} B, live {} B; decoder held {} B, live {} B",
            steps.peak_held_bytes,
            steps.peak_live_bytes,
            decode.peak_held_bytes,
            decode.peak_live_bytes
        );
        let peak = steps.peak_held_bytes.max(decode.peak_held_bytes);
        assert!(peak <= 3_200_000_000, "{kind}: {peak} B");
    }
}

#[test]
fn full_size_parts_fit_a_twentieth_more_than_they_use() {
    let sizes = [[64, 64], [96, 64], [65, 49], [48, 131], [128, 128]];
    for (kind, dtype) in [("sd15", DType::F16), ("sd21-base", DType::F32)] {
        for [height, width] in sizes {
            let check = |part: &str, run: &dyn Fn(&Device, &ShapesAlone)| {
                let within = |budget_bytes| {
                    let device = Device::cpu().dry_run_within(budget_bytes);
                    // With all weights on the device there would be more room between.
                    let offload = device.offload_weights();
                    run(&device, &ShapesAlone::default());
                    drop(offload);
                    device.memory_stats()
                };
                let live_bytes = within(u64::MAX / 2).peak_live_bytes;
                // A run that finds no room panics.
                println!("{kind} {part} {height}x{width} {dtype}: {live_bytes} B");
                let stats = within(live_bytes / 20 * 21);
                assert_eq!(stats.peak_live_bytes, live_bytes);
            };
            let zeros = |device: &Device, shape: &[usize]| {
                let values = vec![0.0; shape.iter().product()];
                Tensor::from_slice(device, shape, dtype, &values).unwrap()
            };
            check("unet", &|device, source| {
                let config = full_size_unet(kind);
                let unet = UNet::load(device, dtype, &config, source).unwrap();
                let context = zeros(device, &[2, 77, config.cross_attention_dim]);
                let latents = zeros(device, &[2, height, width, 4]);
                for _ in 0..2 {
                    unet.forward(&latents, &[1.0; 2], &context).unwrap();
                }
            });
            check("decoder", &|device, source| {
                let vae = VaeDecoder::load(device, dtype, &full_size_vae(kind), source).unwrap();
                vae.decode(&zeros(device, &[1, height, width, 4])).unwrap();
            });
            check("encoder", &|device, source| {
                let vae = VaeEncoder::load(device, dtype, &full_size_vae(kind), source).unwrap();
                vae.encode(&zeros(device, &[1, 8 * height, 8 * width, 3])).unwrap();
            });
        }
    }
}

/// Writes a model of which one component's tensors or configuration were changed, and gives the
/// line that says what is wrong, with the folder taken out.
fn refusal(change: impl FnOnce(&Path)) -> String {
    let folder = random_model::write("bk-tiny");
    change(folder.path());
    let device = Device::cpu().dry_run();
    let files = ModelFiles::open(folder.path(), Variant::Any).unwrap();
    let unet = UNet::load(&device, DType::F32, &files.unet.config, &files.unet.weights);
    let vae = VaeDecoder::load(&device, DType::F32, &files.vae.config, &files.vae.weights);
    let error = unet.err().or(vae.err()).expect("the change is found").to_string();
    assert!(!error.contains('\n'), "{error}");
    error.replace(&folder.path().display().to_string(), "MODEL")
}

fn change_tensors(component: &str, change: impl FnOnce(&mut random_model::Manifest)) -> String {
    let mut manifest = random_model::manifest("bk-tiny", component);
    change(&mut manifest);
    refusal(|folder| {
        let file = folder.join(component).join("diffusion_pytorch_model.safetensors");
        random_model::write_tensors(&file, &manifest);
    })
}

#[test]
fn a_model_that_does_not_fit_its_configuration_is_refused_in_one_line() {
    let missing = change_tensors("unet", |manifest| {
        manifest.remove("up_blocks.1.resnets.0.conv2.weight").unwrap();
    });
    assert_eq!(
        missing,
        "MODEL/unet/diffusion_pytorch_model.safetensors: tensor \
         up_blocks.1.resnets.0.conv2.weight: expected [64, 64, 3, 3], but it is missing"
    );
    let other_shape = change_tensors("vae", |manifest| {
        manifest.insert("decoder.conv_out.weight".to_string(), vec![4, 32, 3, 3]);
    });
    assert_eq!(
        other_shape,
        "MODEL/vae/diffusion_pytorch_model.safetensors: tensor decoder.conv_out.weight: \
         expected [3, 32, 3, 3], got [4, 32, 3, 3]"
    );
    let other_config = refusal(|folder| {
        let path = folder.join("unet/config.json");
        let text = fs::read_to_string(&path).unwrap();
        let changed = text.replacen("32,", "64,", 1);
        assert_ne!(text, changed);
        fs::write(path, changed).unwrap();
    });
    assert_eq!(
        other_config,
        "MODEL/unet/diffusion_pytorch_model.safetensors: tensor \
         time_embedding.linear_1.weight: expected [256, 64], got [128, 32]"
    );
}

#[test]
fn inputs_that_do_not_agree_are_refused_before_anything_runs() {
    let golden = Golden::open("bk-tiny");
    let device = Device::cpu().dry_run();
    let part = &golden.files.unet;
    let unet = UNet::load(&device, DType::F32, &part.config, &part.weights).unwrap();
    let zeros = |shape: &[usize], dtype| {
        Tensor::from_slice(&device, shape, dtype, &vec![0.0; shape.iter().product()]).unwrap()
    };
    let latents = zeros(&[2, 8, 8, 4], DType::F32);
    let context = zeros(&[2, 77, 64], DType::F32);
    let error = |latents: &Tensor, timesteps: &[f32], context: &Tensor| {
        unet.forward(latents, timesteps, context).unwrap_err().to_string()
    };
    assert_eq!(
        error(&zeros(&[2, 4, 8, 8], DType::F32), &[1.0; 2], &context),
        "unet: latents must be [N, H, W, 4] f32, got [2, 4, 8, 8] f32"
    );
    assert_eq!(
        error(&zeros(&[2, 8, 8, 4], DType::F16), &[1.0; 2], &context),
        "unet: latents must be [N, H, W, 4] f32, got [2, 8, 8, 4] f16"
    );
    assert_eq!(error(&latents, &[1.0], &context), "unet: timesteps must be 2, got 1");
    assert_eq!(
        error(&latents, &[1.0; 2], &zeros(&[1, 77, 64], DType::F32)),
        "unet: context must be [2, tokens, 64] f32, got [1, 77, 64] f32"
    );
    assert_eq!(device.recorded().unwrap().launches, 0);
    let part = &golden.files.text_encoder;
    let text = ClipTextEncoder::load(&device, DType::F32, &part.config, &part.weights).unwrap();
    let error = text.encode(&[0; 76]).unwrap_err().to_string();
    assert_eq!(error, "text encoder: ids must be a multiple of 77, got 76");
    let error = text.encode(&[711; 77]).unwrap_err().to_string();
    assert_eq!(error, "text encoder: ids must be less than 711, got 711");
}
