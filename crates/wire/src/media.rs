//! Images, sounds and videos in a request, and how large an image is.

mod base64;
mod dimensions;

use crate::text::RawText;

pub use self::{
    base64::decode_base64_prefix,
    dimensions::{ImageSize, image_dimensions},
};

/// Decoded bytes in which nearly every format has its size.
const SHORT_HEADER_BYTES: usize = 512;

/// Decoded bytes that are searched at most: a JPEG's size may come after two full segments of foreign data.
const LONG_HEADER_BYTES: usize = 160 * 1024;

/// An image, sound or video.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Media {
    /// What it is.
    pub kind: MediaKind,
    /// What [`Media::content`] is.
    pub form: MediaForm,
    /// The URL, or the encoded data.
    pub content: RawText,
}

/// What a medium is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MediaKind {
    /// A still picture.
    Image,
    /// Sound.
    Audio,
    /// A moving picture.
    Video,
    /// Something else, for example a PDF document.
    Other,
}

/// How a medium is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MediaForm {
    /// A URL, which may be a `data:` URL.
    Url,
    /// Base64 data.
    Base64,
}

impl Media {
    /// The first decoded bytes of a medium that is given in place; `None` if it is a link.
    pub fn header(&self, max: usize) -> Option<Vec<u8>> {
        match self.form {
            MediaForm::Base64 => Some(decode_base64_prefix(&self.content, 0, max)),
            MediaForm::Url => {
                let start = self.content.prefix(MAX_DATA_URL_HEAD);
                let data_at = base64_data_at(&start)?;
                Some(decode_base64_prefix(&self.content, data_at, max))
            }
        }
    }

    /// Width and height of an image that is given in place, read from its first bytes.
    pub fn image_size(&self) -> Option<ImageSize> {
        let header = self.header(SHORT_HEADER_BYTES)?;
        if let Some(size) = image_dimensions(&header) {
            return Some(size);
        }
        // Only a JPEG has its size further on.
        if header.len() < SHORT_HEADER_BYTES || !header.starts_with(&[0xff, 0xd8]) {
            return None;
        }
        image_dimensions(&self.header(LONG_HEADER_BYTES)?)
    }
}

impl MediaKind {
    /// The kind by the name that model servers use for it.
    pub fn from_name(name: &[u8]) -> Self {
        match name {
            b"image" => MediaKind::Image,
            b"audio" => MediaKind::Audio,
            b"video" => MediaKind::Video,
            _ => MediaKind::Other,
        }
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            MediaKind::Image => "image",
            MediaKind::Audio => "audio",
            MediaKind::Video => "video",
            MediaKind::Other => "other",
        }
    }
}

/// The media type and parameters of a `data:` URL are looked for in so many bytes.
const MAX_DATA_URL_HEAD: usize = 256;

/// Where the base64 data of a `data:` URL begin; `None` if `url` is not such a URL.
pub fn base64_data_at(url: &[u8]) -> Option<usize> {
    let scheme = url.get(..5)?;
    if !scheme.eq_ignore_ascii_case(b"data:") {
        return None;
    }
    let comma = memchr::memchr(b',', url)?;
    let head = url.get(..comma)?;
    let marker = head.get(head.len().checked_sub(7)?..)?;
    marker.eq_ignore_ascii_case(b";base64").then_some(comma + 1)
}
