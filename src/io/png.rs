//! Pictures out: PNG with the words that made them.

use std::fmt::Write as _;
use std::io;
use std::path::Path;

use super::atomic;
use super::image::Image;
use crate::Result;

/// What made a picture, as other programs read it from a PNG's `parameters` text.
///
/// The form is AUTOMATIC1111's: the prompt, a line with the negative prompt if there is one, and
/// a line of `Key: value` pairs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Parameters {
    /// The words.
    pub prompt: String,
    /// The words to steer away from, or nothing.
    pub negative_prompt: String,
    /// `Steps`.
    pub steps: usize,
    /// `Sampler`: the scheduler's name.
    pub scheduler: String,
    /// `CFG scale`.
    pub guidance_scale: f32,
    /// `Seed`.
    pub seed: u64,
    /// `Size`: the width.
    pub width: u32,
    /// `Size`: the height.
    pub height: u32,
    /// `Model`.
    pub model: String,
    /// More pairs for the end of the line, such as `Denoising strength`.
    pub more: Vec<(String, String)>,
}

impl Parameters {
    /// The text, without a line's end.
    pub fn to_text(&self) -> String {
        let mut text = self.prompt.clone();
        if !self.negative_prompt.is_empty() {
            text.push_str("\nNegative prompt: ");
            text.push_str(&self.negative_prompt);
        }
        let _ = write!(
            text,
            "\nSteps: {}, Sampler: {}, CFG scale: {}, Seed: {}, Size: {}x{}, Model: {}",
            self.steps,
            quoted(&self.scheduler),
            self.guidance_scale,
            self.seed,
            self.width,
            self.height,
            quoted(&self.model),
        );
        for (key, value) in &self.more {
            let _ = write!(text, ", {key}: {}", quoted(value));
        }
        text
    }
}

/// A value as it is, or as a JSON string where it would not be read back.
fn quoted(value: &str) -> String {
    if value.contains([',', ':', '\n']) {
        serde_json::Value::from(value).to_string()
    } else {
        value.to_string()
    }
}

/// Writes a picture as PNG with its parameters inside, whole or not at all.
///
/// The text is a `tEXt` chunk where Latin-1 has all its characters, else an `iTXt` chunk.
///
/// # Errors
///
/// [`crate::Error::File`] if the file cannot be written.
pub fn write(path: &Path, image: &Image, parameters: Option<&Parameters>) -> Result<()> {
    atomic::write(path, |file| encode(file, image, parameters))
}

/// The bytes of a PNG, into `target`.
///
/// # Errors
///
/// What `target` returns.
pub fn encode(
    target: impl io::Write,
    image: &Image,
    parameters: Option<&Parameters>,
) -> io::Result<()> {
    let mut encoder = png::Encoder::new(target, image.width(), image.height());
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    if let Some(parameters) = parameters {
        // A text chunk ends at a zero byte.
        let text = parameters.to_text().replace('\0', " ");
        let keyword = "parameters".to_string();
        if text.chars().all(|character| u32::from(character) < 0x100) {
            encoder.add_text_chunk(keyword, text)?;
        } else {
            encoder.add_itxt_chunk(keyword, text)?;
        }
    }
    let mut writer = encoder.write_header()?;
    writer.write_image_data(image.pixels())?;
    writer.finish()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameters() -> Parameters {
        Parameters {
            prompt: "a boat, at sea".to_string(),
            negative_prompt: "rain".to_string(),
            steps: 20,
            scheduler: "DPM++ 2M".to_string(),
            guidance_scale: 7.5,
            seed: 42,
            width: 512,
            height: 768,
            model: "demo".to_string(),
            more: vec![("Note".to_string(), "a, b".to_string())],
        }
    }

    #[test]
    fn the_text_is_what_other_programs_read() {
        assert_eq!(
            parameters().to_text(),
            "a boat, at sea\nNegative prompt: rain\nSteps: 20, Sampler: DPM++ 2M, CFG scale: 7.5, \
             Seed: 42, Size: 512x768, Model: demo, Note: \"a, b\""
        );
        let short =
            Parameters { negative_prompt: String::new(), guidance_scale: 7.0, ..parameters() };
        assert!(short.to_text().starts_with("a boat, at sea\nSteps: 20"));
        assert!(short.to_text().contains("CFG scale: 7, "));
    }

    #[test]
    fn pixels_and_words_come_back() {
        let image = Image::new(2, 2, (0..12).collect()).unwrap();
        for prompt in ["plain", "café", "夕焼け 🌅", "zero\0byte"] {
            let parameters = Parameters { prompt: prompt.to_string(), ..parameters() };
            let mut bytes = Vec::new();
            encode(&mut bytes, &image, Some(&parameters)).unwrap();
            assert_eq!(Image::decode(Path::new("a.png"), &bytes).unwrap(), image);
            let reader = png::Decoder::new(io::Cursor::new(&bytes)).read_info().unwrap();
            let info = reader.info();
            let latin = info.uncompressed_latin1_text.iter().map(|chunk| chunk.text.clone());
            let other = info.utf8_text.iter().map(|chunk| chunk.get_text().unwrap());
            let texts: Vec<_> = latin.chain(other).collect();
            assert_eq!(texts, [parameters.to_text().replace('\0', " ")]);
        }
    }
}
