//! How many tokens a picture, a film or a sound stands for.

use router_core::header;
use router_framework::Request;
use router_wire::media::{Media, MediaKind};
use xxhash_rust::xxh64::Xxh64;

use super::params::{Dynamic, Estimate, FrameMode, Frames, Mode, Resolution};

/// Tokens that one medium counts at most: beyond any model's context. It bounds what a false image header,
/// a header of the request or a long sound can claim.
pub(super) const MAX_MEDIA_TOKENS: u32 = 1 << 20;

/// What the parameters mean.
#[derive(Clone, Debug)]
pub(super) struct MediaEstimate {
    image: PerPicture,
    image_default: Resolution,
    frame: PerPicture,
    video_default: Resolution,
    default_seconds: f64,
    frames: Frames,
    max_video_tokens: u64,
}

#[derive(Clone, Copy, Debug)]
enum PerPicture {
    Static(u32),
    PixelsPerToken(u32),
}

/// What the client says about the videos of its request.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct VideoHints {
    fps: Option<f64>,
    seconds: Option<f64>,
    resolution: Option<Resolution>,
}

/// Hash of a medium's URL or data.
pub(super) fn hash_of(media: &Media) -> u64 {
    let mut hash = Xxh64::new(0);
    media.content.decode(&mut |part| hash.update(part));
    hash.digest()
}

// === impl MediaEstimate ===

impl MediaEstimate {
    pub(super) fn new(params: &Estimate) -> Self {
        let (image, video) = (&params.image, &params.video);
        let frame = &video.tokens_per_frame;
        Self {
            image: PerPicture::new(image.mode, image.fixed.static_token, image.dynamic),
            image_default: image.default_resolution,
            frame: PerPicture::new(frame.mode, frame.fixed.num_tokens_per_frame, frame.dynamic),
            video_default: video.default_resolution,
            default_seconds: video.default_duration,
            frames: video.frames.clone(),
            max_video_tokens: match video.max_video_tokens {
                0 => u64::MAX,
                max => u64::from(max),
            },
        }
    }

    /// At least 1, at most [`MAX_MEDIA_TOKENS`].
    pub(super) fn n_tokens(&self, media: &Media, hints: &VideoHints) -> u32 {
        let n_tokens = match media.kind {
            MediaKind::Image => self.image_tokens(media),
            MediaKind::Video => self.video_tokens(hints),
            MediaKind::Audio | MediaKind::Other => media.content.wire_len().div_ceil(4) as u64,
        };
        n_tokens.clamp(1, u64::from(MAX_MEDIA_TOKENS)) as u32
    }

    fn image_tokens(&self, media: &Media) -> u64 {
        self.image.n_tokens(|| {
            let shown = media.image_size().map(|(width, height)| Resolution { width, height });
            shown.unwrap_or(self.image_default)
        })
    }

    fn video_tokens(&self, hints: &VideoHints) -> u64 {
        let per_frame = self.frame.n_tokens(|| hints.resolution.unwrap_or(self.video_default));
        self.n_frames(hints).saturating_mul(per_frame.max(1)).min(self.max_video_tokens)
    }

    fn n_frames(&self, hints: &VideoHints) -> u64 {
        let Frames { mode, min, max, sampled, strided } = &self.frames;
        let seconds = hints.seconds.unwrap_or(self.default_seconds);
        let bounded = |n: u64| {
            let n = n.max(u64::from(*min));
            if *max > 0 { n.min(u64::from(*max)) } else { n }
        };
        // Casts from f64 saturate.
        match mode {
            FrameMode::Sampled => {
                let n = bounded((seconds * sampled.sample_fps) as u64);
                n / u64::from(sampled.temporal_patch_size.max(1))
            }
            FrameMode::Strided => {
                let fps = hints.fps.unwrap_or(strided.default_source_fps);
                bounded((seconds * fps) as u64 / u64::from(strided.frame_stride.max(1)))
            }
        }
    }
}

// === impl PerPicture ===

impl PerPicture {
    fn new(mode: Mode, fixed: u32, dynamic: Dynamic) -> Self {
        match mode {
            Mode::Static => Self::Static(fixed),
            Mode::Dynamic => Self::PixelsPerToken(dynamic.factor.max(1)),
        }
    }

    fn n_tokens(self, size: impl FnOnce() -> Resolution) -> u64 {
        match self {
            Self::Static(n_tokens) => u64::from(n_tokens),
            Self::PixelsPerToken(factor) => {
                let Resolution { width, height } = size();
                u64::from(width) * u64::from(height) / u64::from(factor)
            }
        }
    }
}

// === impl VideoHints ===

impl VideoHints {
    /// What cannot be read counts as not said.
    pub(super) fn of(request: &Request) -> Self {
        let number = |name| {
            let value: f64 = request.header(name)?.parse().ok()?;
            (value > 0.0 && value.is_finite()).then_some(value)
        };
        Self {
            fps: number(&header::VIDEO_FPS),
            seconds: number(&header::VIDEO_DURATION),
            resolution: request.header(&header::VIDEO_RESOLUTION).and_then(resolution),
        }
    }
}

/// `1280x720`.
fn resolution(text: &str) -> Option<Resolution> {
    let (width, height) = text.split_once(['x', 'X'])?;
    let side = |text: &str| text.trim().parse().ok().filter(|side| *side > 0);
    Some(Resolution { width: side(width)?, height: side(height)? })
}
