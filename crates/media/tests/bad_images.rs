//! Images that are odd, damaged or too large.

use base::Fault;
use media::{Image, ImagePreprocess, PATCH_SIDE, Patches, SOFT_TOKEN_SIDE, resize};

fn file(name: &str) -> Vec<u8> {
    testkit::read(format!("golden/media/{name}"))
}

fn refused(bytes: &[u8], fault: Fault, text: &str) {
    let error = Image::decode(bytes, "picture").unwrap_err();
    assert_eq!(error.fault(), fault, "{error}");
    assert!(error.to_string().starts_with("picture: ") && error.to_string().contains(text), "{error}");
}

#[test]
fn truncated_files_are_refused_at_every_length() {
    for name in
        ["420.jpg", "progressive.jpg", "cmyk.jpg", "grey.jpg", "palette.png", "lossless.webp", "lossy.webp"]
    {
        let bytes = file(name);
        // The last chunk of a PNG is empty; the image is complete without it.
        let complete = if name.ends_with("png") { bytes.len() - 12 } else { bytes.len() };
        for length in (0..complete).rev().step_by(if complete > 300 { 7 } else { 1 }) {
            let Err(error) = Image::decode(&bytes[..length], name) else {
                panic!("{name}: {length} of {} bytes are accepted", bytes.len());
            };
            assert!(matches!(error.fault(), Fault::Malformed | Fault::Unsupported), "{length}: {error}");
        }
        Image::decode(&bytes, name).unwrap();
    }
    refused(&file("420.jpg")[..500], Fault::Malformed, "truncated");
}

/// A PNG with 1 row of 1 pixel, and a header that says something else.
fn png(width: u32, height: u32, depth: u8, colour: u8, row: &[u8]) -> Vec<u8> {
    let chunk = |name: &[u8], data: &[u8]| {
        let mut checked = name.to_vec();
        checked.extend(data);
        let mut crc = u32::MAX;
        for byte in &checked {
            crc ^= u32::from(*byte);
            for _ in 0..8 {
                crc = if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
            }
        }
        let mut chunk = (data.len() as u32).to_be_bytes().to_vec();
        chunk.extend(checked);
        chunk.extend((!crc).to_be_bytes());
        chunk
    };
    let mut header = width.to_be_bytes().to_vec();
    header.extend(height.to_be_bytes());
    header.extend([depth, colour, 0, 0, 0]);
    // One stored block of deflate, and the sum of Adler.
    let mut data = vec![0];
    data.extend(row);
    let length = data.len() as u16;
    let mut stream = vec![0x78, 1, 1];
    stream.extend(length.to_le_bytes());
    stream.extend((!length).to_le_bytes());
    stream.extend(&data);
    let (mut a, mut b) = (1u32, 0u32);
    for byte in &data {
        a = (a + u32::from(*byte)) % 65_521;
        b = (b + a) % 65_521;
    }
    stream.extend((b << 16 | a).to_be_bytes());
    let mut png = b"\x89PNG\r\n\x1a\n".to_vec();
    png.extend([chunk(b"IHDR", &header), chunk(b"IDAT", &stream), chunk(b"IEND", b"")].concat());
    png
}

#[test]
fn sixteen_bits_become_their_upper_eight() {
    let decode = |depth, colour, row: &[u8]| Image::decode(&png(1, 1, depth, colour, row), "png");
    assert_eq!(decode(16, 2, &[0x12, 0xff, 0x80, 0, 0xff, 0x7f]).unwrap().rgb(), [0x12, 0x80, 0xff]);
    assert_eq!(decode(16, 6, &[0x12, 0xff, 0x80, 0, 0xff, 0x7f, 0, 0]).unwrap().rgb(), [0x12, 0x80, 0xff]);
    assert_eq!(decode(16, 4, &[0x12, 0xff, 0, 0]).unwrap().rgb(), [0x12; 3]);
    let error = decode(16, 0, &[0x12, 0xff]).unwrap_err();
    assert_eq!((error.fault(), error.expected_found()), (Fault::Unsupported, Some(("8 bits", "16 bits"))));

    assert_eq!(decode(8, 0, &[0x12]).unwrap().rgb(), [0x12; 3]);
    assert_eq!(decode(1, 0, &[0x80]).unwrap().rgb(), [0xff; 3]);
    // Alpha is dropped and not blended.
    assert_eq!(decode(8, 6, &[1, 2, 3, 0]).unwrap().rgb(), [1, 2, 3]);
    assert_eq!(decode(8, 4, &[5, 0]).unwrap().rgb(), [5; 3]);
}

#[test]
fn too_many_pixels_are_refused_before_they_are_decoded() {
    for (width, height) in [(10_001, 10_000), (u32::MAX >> 1, 1), (1, 100_000_001)] {
        refused(&png(width, height, 8, 2, &[0; 3]), Fault::Limit, "at most 100000000");
    }
    refused(&png(0, 1, 8, 2, &[0; 3]), Fault::Malformed, "");
    // A header of pixels that do not follow.
    refused(&png(2_000, 2_000, 8, 2, &[0; 3]), Fault::Malformed, "damaged or truncated");
    assert_eq!(Image::new(10_001, 10_000, Vec::new()).unwrap_err().fault(), Fault::Limit);
    assert_eq!(Image::new(2, 2, vec![0; 11]).unwrap_err().fault(), Fault::Malformed);
    assert_eq!(Image::new(0, 2, Vec::new()).unwrap_err().fault(), Fault::Malformed);
}

#[test]
fn other_formats_are_named() {
    refused(&file("animated.gif"), Fault::Unsupported, "expected PNG, JPEG or WebP, found Gif");
    refused(b"BM\0\0\0\0\0\0\0\0", Fault::Unsupported, "found Bmp");
    refused(b"", Fault::Unsupported, "an empty file");
    refused(b"not an image", Fault::Unsupported, "other bytes");
    refused(b"\xff\xd8\xff\xe0\0\x01", Fault::Malformed, "impossible length");
    let missing = Image::open("no/such.png").unwrap_err();
    assert!(missing.to_string().starts_with("no/such.png: "), "{missing}");
}

#[test]
fn extreme_shapes_have_a_size_or_an_error() {
    let sizes = |rule: ImagePreprocess, width: usize, height: usize| {
        let image = Image::new(width, height, vec![200; width * height * 3]).unwrap();
        let patches = rule.patches(&image, SOFT_TOKEN_SIDE)?;
        assert!(patches.soft_tokens() == patches.columns * patches.rows && patches.soft_tokens() > 0);
        assert_eq!(patches.values.len(), patches.soft_tokens() * patches.patch_len());
        Ok::<_, media::Error>((patches.columns, patches.rows))
    };
    let (transformers, llama) = (ImagePreprocess::TRANSFORMERS, ImagePreprocess::LLAMA_CPP);
    assert_eq!(sizes(transformers, 1, 1).unwrap(), (16, 16));
    assert_eq!(sizes(transformers, 1, 10_000).unwrap(), (1, 280));
    assert_eq!(sizes(transformers, 10_000, 1).unwrap(), (280, 1));
    assert_eq!(sizes(llama, 1, 10_000).unwrap(), (1, 208));
    assert_eq!(transformers.target(1, 100_000_000).unwrap(), (48, 280 * 48));
    let error = llama.target(1, 100_000_000).unwrap_err();
    assert!(error.fault() == Fault::Limit && error.to_string().contains("65536"), "{error}");
    assert_eq!(llama.target(10_000, 10_001).unwrap_err().fault(), Fault::Limit);
    assert_eq!(llama.target(0, 1).unwrap_err().fault(), Fault::Malformed);

    let long = Image::new(1, 100_000, vec![7; 300_000]).unwrap();
    let squeezed = resize(&long, 48, 48).unwrap();
    assert!(squeezed.rgb().iter().all(|level| *level == 7));
    assert_eq!(resize(&long, 50_000, 48).unwrap_err().fault(), Fault::Limit);
    assert!(resize(&long, 0, 1).is_err());
}

#[test]
fn numbers_of_a_rule_are_checked() {
    for budget in [0, 1, 256, 281, usize::MAX] {
        let error = ImagePreprocess::Transformers { budget }.target(10, 10).unwrap_err();
        assert_eq!(error.fault(), Fault::Recipe);
        assert!(error.to_string().contains("one of 70, 140, 280, 560, 1120"), "{error}");
    }
    for (min_tokens, max_tokens) in [(0, 1), (2, 1), (1, usize::MAX), (0, 0)] {
        let error = ImagePreprocess::LlamaCpp { min_tokens, max_tokens }.target(10, 10).unwrap_err();
        assert_eq!(error.fault(), Fault::Recipe, "{error}");
    }
    for rule in [ImagePreprocess::TRANSFORMERS, ImagePreprocess::LLAMA_CPP] {
        assert_eq!(rule.name().parse::<ImagePreprocess>().unwrap(), rule);
    }
    let error = "llama".parse::<ImagePreprocess>().unwrap_err();
    assert_eq!(error.expected_found(), Some(("transformers or llama.cpp", "\"llama\"")));
}

#[test]
fn patches_need_whole_soft_tokens() {
    let image = |width: usize, height: usize| Image::new(width, height, vec![0; width * height * 3]).unwrap();
    assert!(Patches::of(&image(48, 32), PATCH_SIDE).is_err());
    assert!(Patches::of(&image(48, 48), 24).is_err());
    assert_eq!(Patches::of(&image(96, 48), PATCH_SIDE).unwrap().soft_tokens(), 2);
}
