//! All bands, and the one for a request.

use router_core::Stamp;

use super::{Band, BandKey};
use crate::config::{BandTemplate, Config};

/// All bands, and their order.
pub(crate) struct Bands {
    known: Vec<Option<Band>>,
    /// Keys of the bands, the most important first.
    order: Vec<BandKey>,
    /// Priorities in the same order.
    priorities: Vec<i32>,
}

impl Bands {
    pub(crate) fn new(config: &Config, now: Stamp) -> Self {
        let mut bands = Self { known: Vec::new(), order: Vec::new(), priorities: Vec::new() };
        for band in &config.bands {
            bands.add(band.priority, band.template.clone(), true, now);
        }
        if bands.find(0).is_none() {
            bands.add(0, config.template.clone(), true, now);
        }
        bands
    }

    pub(crate) fn get(&self, key: BandKey) -> Option<&Band> {
        self.known.get(key.0 as usize)?.as_ref()
    }

    pub(crate) fn get_mut(&mut self, key: BandKey) -> Option<&mut Band> {
        self.known.get_mut(key.0 as usize)?.as_mut()
    }

    pub(crate) fn priorities(&self) -> &[i32] {
        &self.priorities
    }

    /// The bands, the most important first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (usize, BandKey, &Band)> {
        let in_order = self.order.iter().enumerate();
        in_order.filter_map(|(at, &key)| Some((at, key, self.get(key)?)))
    }

    pub(crate) fn find(&self, priority: i32) -> Option<BandKey> {
        let at = self.position(priority).ok()?;
        self.order.get(at).copied()
    }

    /// Of the bands that there are, the one for a request of this priority.
    pub(crate) fn serving(&self, priority: i32) -> Option<BandKey> {
        let (Ok(at) | Err(at)) = self.position(priority);
        self.order.get(at).or_else(|| self.order.last()).copied()
    }

    fn position(&self, priority: i32) -> Result<usize, usize> {
        self.priorities.binary_search_by(|known| priority.cmp(known))
    }

    pub(crate) fn add(
        &mut self,
        priority: i32,
        template: BandTemplate,
        is_wanted: bool,
        now: Stamp,
    ) -> Option<BandKey> {
        let at = self.position(priority).err()?;
        let band = Band::new(priority, template, is_wanted, now);
        let free = self.known.iter().position(Option::is_none).unwrap_or(self.known.len());
        match self.known.get_mut(free) {
            Some(place) => *place = Some(band),
            None => self.known.push(Some(band)),
        }
        let key = BandKey(free as u32);
        self.order.insert(at, key);
        self.priorities.insert(at, priority);
        Some(key)
    }

    pub(crate) fn remove(&mut self, key: BandKey) {
        if let Some(at) = self.order.iter().position(|&known| known == key) {
            self.order.remove(at);
            self.priorities.remove(at);
        }
        if let Some(place) = self.known.get_mut(key.0 as usize) {
            *place = None;
        }
    }

    /// The band for a request of this priority: its own, which is made where that is possible; else the next
    /// less important one, so that nobody is served before their turn; else the least important of all.
    pub(crate) fn for_priority(&mut self, config: &Config, priority: i32, now: Stamp) -> BandKey {
        let is_new = self.position(priority).is_err();
        let found = if is_new && self.order.len() < config.bounds.max_bands {
            self.add(priority, template(config, priority), false, now)
        } else {
            self.serving(priority)
        };
        // The band that was made first is never removed.
        found.unwrap_or(BandKey(0))
    }
}

/// What a band is like that is not configured.
pub(crate) fn template(config: &Config, priority: i32) -> BandTemplate {
    let negative = config.negative_template.as_ref().filter(|_| priority < 0);
    negative.unwrap_or(&config.template).clone()
}
