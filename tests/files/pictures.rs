//! Pictures in and out.

use std::fs;
use std::io::Cursor;
use std::path::Path;

use ellesmere::io::image::{Image, LONGEST_SIDE};
use ellesmere::io::png::{self, Parameters};
use image::{DynamicImage, ImageFormat};

use crate::{assert_fails, golden_json};

/// A picture of which every pixel is different, as a PNG of any kind.
fn encode_png(color: ::png::ColorType, depth: ::png::BitDepth, data: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = ::png::Encoder::new(&mut bytes, 2, 2);
    encoder.set_color(color);
    encoder.set_depth(depth);
    if color == ::png::ColorType::Indexed {
        encoder.set_palette(vec![1, 2, 3, 40, 50, 60]);
        encoder.set_trns(vec![0, 255]);
    }
    encoder.write_header().unwrap().write_image_data(data).unwrap();
    bytes
}

#[test]
fn a_png_of_any_kind_is_8_bit_rgb() {
    use ::png::BitDepth::{Eight, One, Sixteen};
    use ::png::ColorType::{Grayscale, GrayscaleAlpha, Indexed, Rgb, Rgba};
    let wide = |values: &[u8]| values.iter().flat_map(|&value| [value, value]).collect::<Vec<_>>();
    let grey = vec![0, 0, 0, 9, 9, 9, 200, 200, 200, 255, 255, 255];
    let color: Vec<u8> = (0..12).collect();
    let rgba = vec![0, 1, 2, 0, 3, 4, 5, 128, 6, 7, 8, 255, 9, 10, 11, 1];
    let cases = [
        ("rgb", encode_png(Rgb, Eight, &color), color.clone()),
        ("rgb of 16 bits", encode_png(Rgb, Sixteen, &wide(&color)), color.clone()),
        ("transparent", encode_png(Rgba, Eight, &rgba), color.clone()),
        ("transparent of 16 bits", encode_png(Rgba, Sixteen, &wide(&rgba)), color),
        ("grey", encode_png(Grayscale, Eight, &[0, 9, 200, 255]), grey.clone()),
        ("grey of 16 bits", encode_png(Grayscale, Sixteen, &wide(&[0, 9, 200, 255])), grey.clone()),
        (
            "grey, transparent",
            encode_png(GrayscaleAlpha, Eight, &[0, 7, 9, 0, 200, 1, 255, 255]),
            grey,
        ),
        (
            "black and white",
            encode_png(Grayscale, One, &[0b0100_0000, 0b1000_0000]),
            vec![0, 0, 0, 255, 255, 255, 255, 255, 255, 0, 0, 0],
        ),
        (
            "palette",
            encode_png(Indexed, One, &[0b0100_0000, 0b1000_0000]),
            vec![1, 2, 3, 40, 50, 60, 40, 50, 60, 1, 2, 3],
        ),
    ];
    for (why, bytes, expected) in cases {
        let image = Image::decode(Path::new("a.png"), &bytes).unwrap();
        assert_eq!((image.width(), image.height(), image.pixels()), (2, 2, &expected[..]), "{why}");
    }
}

/// A smooth picture, 24 by 16, in another format.
fn encoded(format: ImageFormat) -> Vec<u8> {
    let picture =
        image::RgbImage::from_fn(24, 16, |x, y| image::Rgb([x as u8 * 10, y as u8 * 10, 128]));
    let mut bytes = Cursor::new(Vec::new());
    DynamicImage::from(picture).write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

#[test]
fn jpeg_and_webp_are_read_too() {
    for (format, tolerance) in
        [(ImageFormat::WebP, 0), (ImageFormat::Png, 0), (ImageFormat::Jpeg, 16)]
    {
        // The name does not matter, the content does.
        let image = Image::decode(Path::new("a.txt"), &encoded(format)).unwrap();
        assert_eq!((image.width(), image.height()), (24, 16));
        for (index, pixel) in image.pixels().chunks_exact(3).enumerate() {
            let (x, y) = (index % 24, index / 24);
            for (value, expected) in pixel.iter().zip([x as u8 * 10, y as u8 * 10, 128]) {
                assert!(value.abs_diff(expected) <= tolerance, "{format:?} {x} {y}: {pixel:?}");
            }
        }
    }
}

#[test]
fn a_photograph_is_turned_as_its_camera_says() {
    let upright = encoded(ImageFormat::Jpeg);
    // Orientation 6 in the shortest EXIF block: the camera was held on its side.
    let exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0";
    let length = (exif.len() as u16 + 2).to_be_bytes();
    let turned = [&upright[..2], &[0xff, 0xe1], &length, exif, &upright[2..]].concat();
    let upright = Image::decode(Path::new("a.jpg"), &upright).unwrap();
    let turned = Image::decode(Path::new("a.jpg"), &turned).unwrap();
    assert_eq!((turned.width(), turned.height()), (16, 24));
    let pixel = |image: &Image, x: u32, y: u32| {
        let start = ((y * image.width() + x) * 3) as usize;
        image.pixels()[start..start + 3].to_vec()
    };
    assert_eq!(pixel(&turned, 15, 0), pixel(&upright, 0, 0));
    assert_eq!(pixel(&turned, 0, 23), pixel(&upright, 23, 15));
}

/// The expected pixels are Pillow's (`Image.resize((width, height), Image.LANCZOS)`) of the same
/// picture, which is what diffusers resizes a start image by.
#[test]
fn a_picture_is_resized_as_pillow_does() {
    let pixels = (0..12 * 16 * 3).map(|index| {
        let (y, x, c) = (index / 48, index / 3 % 16, index % 3);
        ((x * 37 + y * 91 + c * 53 + x * y * 7) % 256) as u8
    });
    let image = Image::new(16, 12, pixels.collect()).unwrap();
    for case in golden_json("resize.json").as_array().unwrap() {
        let [width, height] = ["width", "height"].map(|key| case[key].as_u64().unwrap() as u32);
        let expected: Vec<u8> = serde_json::from_value(case["pixels"].clone()).unwrap();
        let resized = image.resize(width, height).unwrap();
        assert_eq!((resized.width(), resized.height()), (width, height));
        assert_eq!(resized.pixels(), expected, "{width}x{height}");
    }
    assert_eq!(image.resize(16, 12).unwrap(), image);
    assert_fails("no width", image.resize(0, 5), &["expected sides of 1 to 16384, got 0x5"]);
}

#[test]
fn what_is_written_is_read_back_and_replaces_the_old() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.png");
    let image = Image::new(3, 1, (0..9).collect()).unwrap();
    png::write(&path, &image, None).unwrap();
    let parameters = Parameters { prompt: "a boat".to_string(), ..Parameters::default() };
    png::write(&path, &image, Some(&parameters)).unwrap();
    assert_eq!(Image::open(&path).unwrap(), image);
    let bytes = fs::read(&path).unwrap();
    let text = b"tEXtparameters\0a boat\nSteps: 0, Sampler: ";
    assert!(bytes.windows(text.len()).any(|window| window == text));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    let nowhere = folder.path().join("none/out.png");
    assert_fails(
        "no folder",
        png::write(&nowhere, &image, None),
        &["none/out.png: cannot be written: "],
    );
}

/// The start of a PNG that says how large it is, and then ends.
fn png_of_size(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = encode_png(::png::ColorType::Rgb, ::png::BitDepth::Eight, &[0; 12]);
    bytes[16..20].copy_from_slice(&width.to_be_bytes());
    bytes[20..24].copy_from_slice(&height.to_be_bytes());
    let checksum = crc32(&bytes[12..29]).to_be_bytes();
    bytes[29..33].copy_from_slice(&checksum);
    bytes
}

/// The checksum of a PNG chunk, bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |state, &byte| {
        (0..8).fold(state ^ u32::from(byte), |state, _| {
            (state >> 1) ^ (0xedb8_8320 & (0u32.wrapping_sub(state & 1)))
        })
    })
}

#[test]
fn each_defect_of_a_picture_is_named() {
    let good = encode_png(::png::ColorType::Rgb, ::png::BitDepth::Eight, &[0; 12]);
    assert_eq!(png_of_size(2, 2), good);
    let known = "expected a PNG, JPEG or WebP picture, got a file of ";
    let cases = [
        ("empty", vec![], known),
        ("text", b"hello\nworld".to_vec(), r"got a file of hello\nwo…"),
        ("a GIF", b"GIF89a\x01\0\x01\0".to_vec(), known),
        ("cut short", good[..good.len() - 20].to_vec(), "not a readable picture: "),
        ("only a start", good[..20].to_vec(), "not a readable picture: "),
        (
            "a wide one",
            png_of_size(LONGEST_SIDE + 1, 1),
            "expected a picture of at most 16384x16384",
        ),
        ("a tall one", png_of_size(1, u32::MAX / 2), "expected a picture of at most 16384x16384"),
        (
            "a large one",
            png_of_size(LONGEST_SIDE, LONGEST_SIDE),
            "expected a picture that decodes in 536870912 B",
        ),
    ];
    for (why, bytes, expected) in cases {
        let result = Image::decode(Path::new("start.png"), &bytes);
        assert_fails(why, result, &["start.png: ", expected]);
    }
    assert_fails("missing", Image::open(Path::new("none.png")), &["none.png: cannot be opened: "]);
    assert_fails("pixels", Image::new(2, 2, vec![0; 11]), &["expected 12 B for 2x2, got 11 B"]);
}
