//! The configurations of the model inside the program `sd`.

use ellesmere::Result;
use ellesmere::bench::Part;
use ellesmere::models::config::{FromJson, TextEncoderConfig, UNetConfig, VaeConfig};

fn read<T: FromJson>(text: &str) -> Result<T> {
    T::from_json("examples/assets/demo".as_ref(), text)
}

macro_rules! config {
    ($part:literal) => {
        include_str!(concat!("../../../../examples/assets/demo/", $part, "/config.json"))
    };
}

pub fn parts() -> Result<Vec<Part>> {
    let text: TextEncoderConfig = read(config!("text_encoder"))?;
    let unet: UNetConfig = read(config!("unet"))?;
    let vae: VaeConfig = read(config!("vae"))?;
    Ok(vec![Part::TextEncoder(text.clone()), Part::UNet(unet, text), Part::Decoder(vae)])
}
