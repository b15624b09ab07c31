//! One run of the program: plan, load, draw, write.

use std::io::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use ellesmere::info::DeviceKind;
use ellesmere::io::atomic;
use ellesmere::io::image::Image;
use ellesmere::io::png::{self, Parameters};
use ellesmere::models::{ModelFiles, Variant};
use ellesmere::ops::Products;
use ellesmere::pipeline::{
    InitImage, LoadOptions, OffloadTo, Picture, Pipeline, Plan, Progress, Request, recommend,
};
use ellesmere::{DType, Device, DeviceOptions, Error, Result, knob};
use serde_json::json;

use crate::arguments::{Arguments, Offload};
use crate::demo;
use crate::progress::{self, Display};

/// A picture that was written.
struct Written {
    path: PathBuf,
    seed: u64,
    time: Duration,
}

pub fn draw(arguments: &Arguments) -> Result<()> {
    let first_seed = arguments.seed.unwrap_or_else(random_seed);
    let outputs = outputs(arguments, first_seed);
    if !arguments.plan && !arguments.recommend {
        let traces = arguments.trace.iter();
        for path in outputs.iter().map(|(_, path)| path).chain(traces) {
            atomic::check_writable(path)?;
        }
    }
    let options = DeviceOptions {
        budget_bytes: arguments.memory_budget,
        max_allocation_bytes: arguments.max_allocation,
        launch_limit: arguments.launch_limit_ms.map(Duration::from_millis),
        ..Default::default()
    };
    let name = arguments.device.clone().map_or_else(knob::device, Ok)?;
    let device = Device::open(&name, &options)?;
    device.notes().iter().for_each(|note| eprintln!("note: {note}"));
    let dtype = arguments.dtype.unwrap_or(match device.info().kind {
        DeviceKind::Gpu => DType::F16,
        DeviceKind::Cpu => DType::F32,
    });
    let variant = if dtype == DType::F16 { Variant::F16 } else { Variant::Any };
    let (mut files, suited_guidance) = match &arguments.model {
        Some(path) => (ModelFiles::open(path, variant)?, 7.5),
        None => (demo::model()?, demo::GUIDANCE),
    };
    files.quantize(arguments.quantize);
    if arguments.int8_products {
        let formats = files.unet.weights.formats();
        if !formats.values().any(|format| format.has_integer_levels()) && !arguments.allow_quantize
        {
            let detail = "needs weights in blocks: give --quantize q8_0, or a model that has them";
            return Err(Error::argument("--int8-products", detail));
        }
        files.multiply_in(Products::Int8);
    }
    let mut request = Request {
        prompt: arguments.prompt.clone().unwrap_or_default(),
        negative_prompt: arguments.negative.clone(),
        width: arguments.size.map(|[width, _]| width),
        height: arguments.size.map(|[_, height]| height),
        steps: arguments.steps,
        guidance_scale: arguments.guidance.unwrap_or(suited_guidance),
        scheduler: arguments.scheduler,
        prediction_type: arguments.prediction,
        seed: first_seed,
        count: 1,
        init_image: None,
        vae_tiling: arguments.vae_tiling,
        vae_tile: arguments.vae_tile,
    };
    request.init_image = init_image(arguments, &files)?;

    let base = LoadOptions {
        offload_threshold_bytes: (arguments.offload_threshold * 1e6) as u64,
        offload_to: arguments.offload_to,
        ..LoadOptions::for_request(&request)
    };
    if arguments.recommend {
        let told = observed(|display| {
            let observe = &mut |progress: &Progress| display.observe(progress);
            recommend(&device, &files, &base, &request, observe)
        })?;
        match arguments.json {
            true => println!("{}", json!(told)),
            false => println!("{told}"),
        }
        return Ok(());
    }
    let (load, mut plan) = match &arguments.offload {
        Offload::Auto if arguments.allow_quantize => {
            base.fitted_in_fewer_bits(&device, &mut files, dtype, &request)?
        }
        Offload::Auto => base.fitted(&device, &files, dtype, &request)?,
        Offload::These(_) if arguments.allow_quantize => {
            let detail = "it chooses between fewer bits and the host: expected --offload auto";
            return Err(Error::argument("--allow-quantize", detail));
        }
        Offload::These(components) => {
            let offload = components.iter().copied().collect();
            let load = LoadOptions { offload, ..base };
            let plan = Pipeline::plan(&device, &files, dtype, &load, &request)?;
            (load, plan)
        }
    };
    if let Some(format) = &plan.fewer_bits {
        let budget_gb = plan.memory.budget_bytes as f64 / 1e9;
        eprintln!("note: weights are held in {format}, for a budget of {budget_gb:.3} GB");
    }
    if arguments.offload == Offload::Auto && !plan.offloaded.is_empty() {
        let names: Vec<&str> = plan.offloaded.iter().map(|component| component.name()).collect();
        let budget_gb = plan.memory.budget_bytes as f64 / 1e9;
        let (place, bytes) = match arguments.offload_to {
            OffloadTo::Host => ("on the host", plan.host_bytes),
            OffloadTo::File => ("in the file", plan.file_bytes),
        };
        let (names, offloaded_gb) = (names.join(", "), bytes as f64 / 1e9);
        eprintln!(
            "note: {offloaded_gb:.3} GB of weights ({names}) stay {place}, for a budget of \
             {budget_gb:.3} GB"
        );
    }
    if arguments.plan {
        observed(|display| {
            plan.time(&device, &files, &mut |progress| display.observe(progress)).map(drop)
        })?;
        match arguments.json {
            true => println!("{}", json!(plan)),
            false => println!("{plan}"),
        }
        return Ok(());
    }
    device.profile().set_enabled(arguments.profile || arguments.trace.is_some());
    let written = draw_all(&device, &files, dtype, &load, &plan, request, &outputs)?;
    report(arguments, &device, &plan, &written)
}

/// Does something that shows how far it is and can be stopped.
fn observed<T>(work: impl FnOnce(&Display) -> Result<T>) -> Result<T> {
    progress::stop_on_ctrl_c().map_err(|error| Error::argument("Ctrl-C handler", error))?;
    let display = Display::new();
    let done = work(&display)?;
    display.finish();
    Ok(done)
}

/// Draws every picture and writes each as soon as it is done.
fn draw_all(
    device: &Device,
    files: &ModelFiles,
    dtype: DType,
    load: &LoadOptions,
    plan: &Plan,
    mut request: Request,
    outputs: &[(u64, PathBuf)],
) -> Result<Vec<Written>> {
    progress::stop_on_ctrl_c().map_err(|error| Error::argument("Ctrl-C handler", error))?;
    let display = Display::new();
    device.prepare(&plan.programs, |ready, all| {
        display.message(format!("kernels: {ready} of {all}"));
    })?;
    display.message("loading");
    let pipeline = Pipeline::load(device, files, dtype, load)?;
    let mut written = Vec::new();
    for (seed, path) in outputs {
        let start = Instant::now();
        request.seed = *seed;
        let pictures = pipeline.generate(&request, &mut |progress| display.observe(progress))?;
        let parameters = parameters(&pipeline, &request, files, &pictures[0])?;
        png::write(path, &image(&pictures[0])?, Some(&parameters))?;
        written.push(Written { path: path.clone(), seed: *seed, time: start.elapsed() });
    }
    display.finish();
    Ok(written)
}

/// The seed and the file of every picture.
fn outputs(arguments: &Arguments, first_seed: u64) -> Vec<(u64, PathBuf)> {
    let path = |index: u64| {
        if arguments.count == 1 {
            return arguments.output.clone();
        }
        let stem = arguments.output.file_stem().unwrap_or_default().to_string_lossy();
        let extension = arguments.output.extension().unwrap_or("png".as_ref()).to_string_lossy();
        arguments.output.with_file_name(format!("{stem}-{}.{extension}", index + 1))
    };
    (0..arguments.count).map(|index| (first_seed.wrapping_add(index), path(index))).collect()
}

/// A seed that differs from run to run and is short enough to type.
fn random_seed() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let now = now.unwrap_or_default();
    (now.as_nanos() as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32
}

fn init_image(arguments: &Arguments, files: &ModelFiles) -> Result<Option<InitImage>> {
    let Some(path) = &arguments.init_image else { return Ok(None) };
    let [height, width] = files.default_size();
    let [width, height] = arguments.size.unwrap_or([width, height]);
    let image = Image::open(path)?.resize(width as u32, height as u32)?;
    let rgb = image.pixels().iter().map(|&value| f32::from(value) / 255.0).collect();
    Ok(Some(InitImage { rgb, strength: arguments.strength }))
}

/// What other programs read from a picture to draw it again.
fn parameters(
    pipeline: &Pipeline,
    request: &Request,
    files: &ModelFiles,
    picture: &Picture,
) -> Result<Parameters> {
    let scheduler = match request.scheduler {
        Some(kind) => kind,
        None => pipeline.default_scheduler()?,
    };
    let strength = request.init_image.as_ref().map(|image| image.strength);
    let strength = strength.map(|strength| ("Denoising strength", strength.to_string()));
    let format = files.format().map(|format| ("Weights", format.to_string()));
    let products = (files.products() == Products::Int8).then(|| ("Products", "int8".to_owned()));
    let more = strength.into_iter().chain(format).chain(products);
    Ok(Parameters {
        prompt: request.prompt.clone(),
        negative_prompt: request.negative_prompt.clone(),
        steps: request.steps,
        scheduler: scheduler.to_string(),
        guidance_scale: request.guidance_scale,
        seed: request.seed,
        width: picture.width as u32,
        height: picture.height as u32,
        model: files.name.clone(),
        more: more.map(|(key, value)| (key.to_owned(), value)).collect(),
    })
}

fn image(picture: &Picture) -> Result<Image> {
    Image::new(picture.width as u32, picture.height as u32, picture.to_rgb8())
}

fn report(arguments: &Arguments, device: &Device, plan: &Plan, written: &[Written]) -> Result<()> {
    let memory = device.memory_stats();
    if let Some(path) = &arguments.trace {
        atomic::write(path, |file| file.write_all(device.profile().chrome_trace().as_bytes()))?;
    }
    if arguments.json {
        let pictures: Vec<_> = written
            .iter()
            .map(|picture| {
                let seconds = picture.time.as_secs_f64();
                json!({ "path": picture.path, "seed": picture.seed, "seconds": seconds })
            })
            .collect();
        let mut document = json!({
            "device": device.info(), "plan": plan, "pictures": pictures, "memory": memory,
            "peak_bytes": memory.peak_held_bytes, "predicted_peak_bytes": plan.peak_bytes,
        });
        if arguments.profile {
            document["profile"] = json!(device.profile().report());
        }
        println!("{document}");
        return Ok(());
    }
    for picture in written {
        let (path, seconds) = (picture.path.display(), picture.time.as_secs_f64());
        println!("{path}  seed {}  {seconds:.2} s on {}", picture.seed, device.info().name);
    }
    let gb = |bytes: u64| bytes as f64 / 1e9;
    let (peak, predicted) = (memory.peak_held_bytes, plan.peak_bytes);
    eprintln!("peak memory {:.3} GB, predicted {:.3} GB", gb(peak), gb(predicted));
    if memory.peak_parked_bytes > 0 {
        eprintln!("parked on the host {:.3} GB at most", gb(memory.peak_parked_bytes));
    }
    if arguments.profile {
        println!("\n{}\n\n{memory}", device.profile().report());
    }
    Ok(())
}
