//! Rotary settings of `config.json`, of both generations: `rope_parameters` of `transformers` 5;
//! `rope_scaling`, `rope_theta` and their kin of 4.

use serde_json::{Map, Value};

use super::fields::{Fields, found};
use crate::error::Error;
use crate::rope::{Rope, RopeScaling};

/// One rotation before its settings are read.
struct Turned<'a> {
    /// Entries of a head.
    head_dim: usize,
    /// How many of them turn.
    width: usize,
    theta: f64,
    settings: &'a Map<String, Value>,
}

impl<'a> Fields<'a> {
    /// The object under `key`; nothing where it is absent or null.
    fn object(&self, key: &str) -> Result<Option<&'a Map<String, Value>>, Error> {
        let Some(value) = self.given(key) else { return Ok(None) };
        value.as_object().map(Some).ok_or_else(|| self.wrong(key, "an object"))
    }

    /// `rope_scaling` where it says something, else `rope_parameters`.
    fn rope_settings(&self) -> Result<Map<String, Value>, Error> {
        let old = self.object("rope_scaling")?.filter(|map| !map.is_empty());
        let new = self.object("rope_parameters")?;
        Ok(old.or(new).cloned().unwrap_or_default())
    }

    /// Rotation of whole heads.
    pub(crate) fn rope(&self, head_dim: usize) -> Result<Rope, Error> {
        let settings = &self.rope_settings()?;
        let inner = Fields(settings);
        let part =
            inner.positive_or("partial_rotary_factor", self.positive_or("partial_rotary_factor", 1.0)?)?;
        if (part - 1.0).abs() > 0.0 {
            return Err(Error::config("partial_rotary_factor", "1 in this family", part));
        }
        let theta = inner.positive_or("rope_theta", self.positive_or("rope_theta", 10_000.0)?)?;
        self.build_rope(&Turned { head_dim, width: head_dim, theta, settings })
    }

    /// GPT-NeoX's rotation of the part of a head that `partial_rotary_factor` or `rotary_pct` names.
    pub(crate) fn partial_rope(&self, head_dim: usize) -> Result<Rope, Error> {
        let settings = &self.rope_settings()?;
        let inner = Fields(settings);
        let outer = self.positive_or("rotary_pct", self.positive_or("partial_rotary_factor", 0.25)?)?;
        let part = inner.positive_or("partial_rotary_factor", outer)?;
        if part > 1.0 {
            return Err(Error::config("partial_rotary_factor", "a number in (0, 1]", part));
        }
        let outer = self.positive_or("rotary_emb_base", self.positive_or("rope_theta", 10_000.0)?)?;
        let theta = inner.positive_or("rope_theta", outer)?;
        let width = (head_dim as f64 * part) as usize;
        self.build_rope(&Turned { head_dim, width, theta, settings })
    }

    /// Gemma 3's rotations: of layers without a window, then of layers with one.
    pub(crate) fn gemma3_ropes(&self, head_dim: usize) -> Result<Vec<Rope>, Error> {
        let nested = self.object("rope_parameters")?.cloned().unwrap_or_default();
        let part = |key: &str| Ok::<_, Error>(Fields(&nested).object(key)?.cloned().unwrap_or_default());
        let (mut full, sliding) = (part("full_attention")?, part("sliding_attention")?);
        full.extend(self.object("rope_scaling")?.cloned().unwrap_or_default());
        let theta = |map: &Map<String, Value>, outer: &str, default: f64| {
            Fields(map).positive_or("rope_theta", self.positive_or(outer, default)?)
        };
        let (wide, narrow) =
            (theta(&full, "rope_theta", 1e6)?, theta(&sliding, "rope_local_base_freq", 1e4)?);
        let build = |theta, settings| self.build_rope(&Turned { head_dim, width: head_dim, theta, settings });
        Ok(vec![build(wide, &full)?, build(narrow, &sliding)?])
    }

    fn build_rope(&self, it: &Turned<'_>) -> Result<Rope, Error> {
        if !it.width.is_multiple_of(2) || it.width == 0 {
            let expected = "an even, positive number of rotated entries";
            return Err(Error::config("head_dim", expected, format!("{} of {}", it.width, it.head_dim)));
        }
        let kind = match it.settings.get("rope_type").or_else(|| it.settings.get("type")) {
            None | Some(Value::Null) => "default",
            Some(Value::String(name)) => name,
            Some(other) => return Err(Error::config("rope_parameters.rope_type", "a text", other)),
        };
        let number = |key: &str| {
            let x = it.settings.get(key).and_then(Value::as_f64).filter(|x| *x > 0.0);
            x.ok_or_else(|| {
                let name = format!("rope_parameters.{key}");
                Error::config(name, "a positive number", found(it.settings.get(key)))
            })
        };
        let scaling = match kind {
            "default" => RopeScaling::Default,
            "linear" => RopeScaling::Linear { factor: number("factor")? },
            "llama3" => {
                let (low, high) = (number("low_freq_factor")?, number("high_freq_factor")?);
                if high <= low {
                    let expected = format!("a number above low_freq_factor = {low}");
                    return Err(Error::config("rope_parameters.high_freq_factor", expected, high));
                }
                RopeScaling::Llama3 { factor: number("factor")?, low, high, original: self.original(it)? }
            }
            other => {
                return Err(Error::config("rope_parameters.rope_type", "default, linear or llama3", other));
            }
        };
        Ok(Rope::new(it.width, it.theta, scaling))
    }

    /// The context before it was stretched: beside the settings, in them, or today's.
    fn original(&self, it: &Turned<'_>) -> Result<f64, Error> {
        let key = "original_max_position_embeddings";
        let now = self.size("max_position_embeddings")? as f64;
        self.positive_or(key, Fields(it.settings).positive_or(key, now)?)
    }
}
