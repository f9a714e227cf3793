//! Width and height from the first bytes of an image file.

/// Width and height in pixels.
pub type ImageSize = (u32, u32);

/// Width and height of a PNG, JPEG, GIF or WebP image, read from the beginning of the file.
/// `None` if it is another format or `header` is too short.
pub fn image_dimensions(header: &[u8]) -> Option<ImageSize> {
    let (width, height) = match header {
        [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => png(header)?,
        [0xff, 0xd8, ..] => jpeg(header)?,
        [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => {
            (le(header.get(6..8)?), le(header.get(8..10)?))
        }
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => webp(header)?,
        _ => return None,
    };
    (width > 0 && height > 0).then_some((width, height))
}

fn png(header: &[u8]) -> Option<ImageSize> {
    if header.get(12..16)? != b"IHDR" {
        return None;
    }
    Some((be(header.get(16..20)?), be(header.get(20..24)?)))
}

/// Walks over the segments to the start of the frame.
fn jpeg(header: &[u8]) -> Option<ImageSize> {
    let mut at = 2;
    loop {
        if *header.get(at)? != 0xff {
            return None;
        }
        let marker = *header.get(at + 1)?;
        match marker {
            // Fill bytes before a marker.
            0xff => at += 1,
            // Markers without a length.
            0x01 | 0xd0..=0xd8 => at += 2,
            // Start of scan or end of image: there is no frame before it.
            0xd9 | 0xda => return None,
            0xc0..=0xc3 | 0xc5..=0xc7 | 0xc9..=0xcb | 0xcd..=0xcf => {
                return Some((be(header.get(at + 7..at + 9)?), be(header.get(at + 5..at + 7)?)));
            }
            _ => at += 2 + be(header.get(at + 2..at + 4)?).max(2) as usize,
        }
    }
}

fn webp(header: &[u8]) -> Option<ImageSize> {
    match header.get(12..16)? {
        b"VP8 " => {
            let (width, height) = (le(header.get(26..28)?), le(header.get(28..30)?));
            Some((width & 0x3fff, height & 0x3fff))
        }
        b"VP8L" => {
            let bits = le(header.get(21..25)?);
            Some(((bits & 0x3fff) + 1, (bits >> 14 & 0x3fff) + 1))
        }
        b"VP8X" => Some((le(header.get(24..27)?) + 1, le(header.get(27..30)?) + 1)),
        _ => None,
    }
}

fn be(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0, |value, &byte| value << 8 | u32::from(byte))
}

fn le(bytes: &[u8]) -> u32 {
    bytes.iter().rev().fold(0, |value, &byte| value << 8 | u32::from(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(parts: &[&[u8]], size: Option<ImageSize>) {
        let file = parts.concat();
        assert_eq!(image_dimensions(&file), size, "{file:02x?}");
        // A file that is cut short has no size, and nothing panics.
        for len in 0..file.len() {
            let cut = image_dimensions(&file[..len]);
            assert!(cut.is_none() || cut == size, "{len} bytes of {file:02x?}");
        }
    }

    #[test]
    fn sizes_are_read() {
        let png = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR";
        check(&[png, &[0, 0, 2, 0x80, 0, 0, 1, 0x68]], Some((640, 360)));
        check(&[png, &[0, 0, 0, 0, 0, 0, 1, 0x68]], None);
        check(&[b"GIF89a", &[0x40, 1, 0xf0, 0]], Some((320, 240)));
        check(&[b"GIF87a", &[1, 0, 2, 0]], Some((1, 2)));
        let webp = b"RIFF\0\0\0\0WEBP";
        check(&[webp, b"VP8X\x0a\0\0\0\x10\0\0\0", &[0x7f, 2, 0, 0x67, 1, 0]], Some((640, 360)));
        check(&[webp, b"VP8L\0\0\0\0\x2f", &[0x7f, 0xc2, 0x59, 0]], Some((640, 360)));
        check(&[webp, b"VP8 \0\0\0\0\0\0\0\x9d\x01\x2a", &[0x80, 2, 0x68, 1]], Some((640, 360)));
        check(&[webp, b"XXXX\0\0\0\0"], None);
        check(&[b"BM\0\0"], None);
        check(&[b""], None);
    }

    #[test]
    fn a_jpeg_is_walked_to_its_frame() {
        let frame = [0xff, 0xc2, 0, 17, 8, 1, 0x68, 2, 0x80];
        check(&[&[0xff, 0xd8], &frame], Some((640, 360)));
        let app1 = [&[0xff, 0xe1, 0x01, 0x02][..], &[0xab; 0x100]].concat();
        let table = [0xff, 0xc4, 0, 4, 1, 2];
        check(&[&[0xff, 0xd8], &app1, &table, &[0xff], &frame], Some((640, 360)));
        check(&[&[0xff, 0xd8], &[0xff, 0xda, 0, 2], &frame], None);
        check(&[&[0xff, 0xd8, 0xff, 0xe1, 0, 0, 0xff, 0xd9]], None);
    }
}
