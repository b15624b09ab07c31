//! Pictures in: PNG, JPEG and WebP of any kind, as 8-bit RGB.

use std::io::Cursor;
use std::path::Path;

use image::error::{ImageError, LimitError, LimitErrorKind};
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits};

use super::mmap::FileBytes;
use super::{one_line, resize};
use crate::{Error, Result};

/// The longest side of a picture that is read or made.
pub const LONGEST_SIDE: u32 = 16_384;

/// What decoding may take in memory, for the picture and the decoder together.
const DECODING_LIMIT_BYTES: u64 = 512 << 20;

/// A picture: rows from the top, three bytes a pixel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    width: u32,
    height: u32,
    pixels: Vec<u8>,
}

impl Image {
    /// A picture from its pixels: `height` rows of `width` pixels of red, green and blue.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] if there are not `width * height * 3` bytes, or a side is 0 or longer
    /// than [`LONGEST_SIDE`].
    pub fn new(width: u32, height: u32, pixels: Vec<u8>) -> Result<Self> {
        let sides = 1..=LONGEST_SIDE;
        if !sides.contains(&width) || !sides.contains(&height) {
            let detail = format!("expected sides of 1 to {LONGEST_SIDE}, got {width}x{height}");
            return Err(Error::shape("image", detail));
        }
        let expected = width as usize * height as usize * 3;
        if pixels.len() != expected {
            let detail =
                format!("expected {expected} B for {width}x{height}, got {} B", pixels.len());
            return Err(Error::shape("image", detail));
        }
        Ok(Image { width, height, pixels })
    }

    /// Reads a PNG, JPEG or WebP file, turned as its EXIF orientation says. Transparency is
    /// dropped, 16 bits become 8, grey becomes RGB.
    ///
    /// # Errors
    ///
    /// [`Error::File`] if the file cannot be read, is none of these, is damaged or too large.
    pub fn open(path: &Path) -> Result<Self> {
        Self::decode(path, &FileBytes::map(path)?)
    }

    /// The same for bytes that are at hand; `path` names them in messages.
    ///
    /// # Errors
    ///
    /// As [`Image::open`].
    pub fn decode(path: &Path, bytes: &[u8]) -> Result<Self> {
        let mut reader = ImageReader::new(Cursor::new(bytes))
            .with_guessed_format()
            .map_err(|error| Error::file(path, one_line(error)))?;
        let known = [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::WebP];
        if !reader.format().is_some_and(|format| known.contains(&format)) {
            let start = one_line(bytes.get(..bytes.len().min(8)).unwrap_or(bytes).escape_ascii());
            let detail = format!("expected a PNG, JPEG or WebP picture, got a file of {start}…");
            return Err(Error::file(path, detail));
        }
        let mut limits = Limits::default();
        limits.max_image_width = Some(LONGEST_SIDE);
        limits.max_image_height = Some(LONGEST_SIDE);
        limits.max_alloc = Some(DECODING_LIMIT_BYTES);
        reader.limits(limits);
        let decoded = reader.into_decoder().and_then(|mut decoder| {
            if decoder.total_bytes() > DECODING_LIMIT_BYTES {
                return Err(ImageError::Limits(LimitError::from_kind(
                    LimitErrorKind::InsufficientMemory,
                )));
            }
            let orientation = decoder.orientation()?;
            let mut image = DynamicImage::from_decoder(decoder)?;
            image.apply_orientation(orientation);
            Ok(image.into_rgb8())
        });
        let image = decoded.map_err(|error| Error::file(path, describe(&error)))?;
        let (width, height) = image.dimensions();
        Self::new(width, height, image.into_raw())
            .map_err(|error| Error::file(path, one_line(error)))
    }

    /// The picture at another size, by a Lanczos window that does not alias where the picture
    /// shrinks: what Pillow makes, by which diffusers resizes a start image.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] if a side is 0 or longer than [`LONGEST_SIDE`].
    pub fn resize(&self, width: u32, height: u32) -> Result<Self> {
        if (width, height) == (self.width, self.height) {
            return Ok(self.clone());
        }
        let sides = 1..=LONGEST_SIDE;
        if !sides.contains(&width) || !sides.contains(&height) {
            let detail = format!("expected sides of 1 to {LONGEST_SIDE}, got {width}x{height}");
            return Err(Error::shape("image", detail));
        }
        let size = [self.height as usize, self.width as usize];
        let pixels = resize::lanczos(&self.pixels, size, [height as usize, width as usize]);
        Self::new(width, height, pixels)
    }

    /// The number of columns.
    pub fn width(&self) -> u32 {
        self.width
    }

    /// The number of rows.
    pub fn height(&self) -> u32 {
        self.height
    }

    /// Row by row, three bytes a pixel.
    pub fn pixels(&self) -> &[u8] {
        &self.pixels
    }
}

fn describe(error: &ImageError) -> String {
    match error {
        ImageError::Limits(limit) => match limit.kind() {
            LimitErrorKind::DimensionError => {
                format!("expected a picture of at most {LONGEST_SIDE}x{LONGEST_SIDE}, got a larger")
            }
            _ => format!(
                "expected a picture that decodes in {DECODING_LIMIT_BYTES} B, got a larger one"
            ),
        },
        error => format!("not a readable picture: {}", one_line(error)),
    }
}
