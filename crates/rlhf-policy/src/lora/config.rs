//! `adapter_config.json`: which maps are adapted and how, under PEFT's names.
//!
//! A setting that would change the numbers and is not known here is refused by its name; keys that
//! change nothing are kept and written back.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::error::Error;

/// The file of settings in an adapter's folder.
pub const ADAPTER_CONFIG: &str = "adapter_config.json";

/// Highest rank: more is a slip of the pen that would ask for memory.
const MOST: usize = 1 << 16;

/// What PEFT can do and this crate does not: each must be absent, null, false or empty.
const UNKNOWN_HERE: [&str; 12] = [
    "lora_bias",
    "layer_replication",
    "layers_pattern",
    "target_parameters",
    "trainable_token_indices",
    "alora_invocation_tokens",
    "use_qalora",
    "use_bdlora",
    "arrow_config",
    "kasa_config",
    "velora_config",
    "monteclora_config",
];

/// Which maps get an adapter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Targets {
    /// Every linear map but the head (`"all-linear"`).
    AllLinear,
    /// Every map or embedding whose name on disk is one of these or ends with a dot and one of these.
    Names(Vec<String>),
}

/// How fresh adapters start. The change they make is zero at first but for [`InitWeights::Random`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InitWeights {
    /// `true`: A uniform in ±1/√in, B zero; on embeddings A zero, B standard normal.
    Standard,
    /// `"gaussian"`: A normal with deviation 1/r, B zero; embeddings as `Standard`.
    Gaussian,
    /// `false`: A uniform in ±1/√in, B uniform in ±1/√r; on embeddings both standard normal.
    Random,
}

/// What the model is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// `CAUSAL_LM`.
    Causal,
    /// `SEQ_CLS`: the head `score` is trained and saved as a whole.
    Classifier,
}

impl Task {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Causal => "CAUSAL_LM",
            Self::Classifier => "SEQ_CLS",
        }
    }
}

/// The settings of an adapter. As serde data it is `adapter_config.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Map<String, Value>", into = "Map<String, Value>")]
pub struct LoraConfig {
    /// r, at least 1.
    pub r: usize,
    /// α.
    pub lora_alpha: f64,
    /// s is α/√r instead of α/r.
    pub use_rslora: bool,
    /// Which maps get an adapter.
    pub target_modules: Targets,
    /// Names, matched as targets, of maps that get none.
    pub exclude_modules: Vec<String>,
    /// Only blocks with these indices, unless a target is a whole name.
    pub layers_to_transform: Option<Vec<usize>>,
    /// Names, matched as targets, of maps and embeddings that are trained as a whole.
    pub modules_to_save: Vec<String>,
    /// r of the maps that end with a name, or of the one whole name behind a `^`.
    pub rank_pattern: BTreeMap<String, usize>,
    /// α of such maps.
    pub alpha_pattern: BTreeMap<String, f64>,
    /// A magnitude a row of outputs stands beside A and B. Read and folded into the weights, not trained.
    pub use_dora: bool,
    /// A tied head follows the embedding's adapter.
    pub ensure_weight_tying: bool,
    /// Dropout before A. It plays no part in the forward pass of a trained adapter; training here has none.
    pub lora_dropout: f64,
    /// How fresh adapters start.
    pub init_lora_weights: InitWeights,
    /// What the model is for; absent where the folder does not say.
    pub task_type: Option<Task>,
    /// The base model's folder, from the adapter's folder or the working folder.
    pub base_model_name_or_path: Option<String>,
    /// Every other key of the file: kept, written back, of no effect.
    pub rest: Map<String, Value>,
}

pub(crate) fn wrong(key: &str, expected: impl Display, found: impl Display) -> Error {
    Error::file(ADAPTER_CONFIG, format!("{key}: expected {expected}, found {found}"))
}

/// Whether `name` is `key` or ends with a dot and `key`.
pub(crate) fn ends_with(name: &str, key: &str) -> bool {
    name.strip_suffix(key).is_some_and(|head| head.is_empty() || head.ends_with('.'))
}

impl LoraConfig {
    /// Adapters of rank `r` with scale `lora_alpha` / r on `target_modules`; all else as PEFT has it when
    /// nothing more is said.
    pub fn new(r: usize, lora_alpha: f64, target_modules: Targets) -> Self {
        Self {
            r,
            lora_alpha,
            use_rslora: false,
            target_modules,
            exclude_modules: Vec::new(),
            layers_to_transform: None,
            modules_to_save: Vec::new(),
            rank_pattern: BTreeMap::new(),
            alpha_pattern: BTreeMap::new(),
            use_dora: false,
            ensure_weight_tying: false,
            lora_dropout: 0.0,
            init_lora_weights: InitWeights::Standard,
            task_type: None,
            base_model_name_or_path: None,
            rest: Map::new(),
        }
    }

    /// Reads and checks the text of `adapter_config.json`. Absent keys have PEFT's defaults: r and
    /// `lora_alpha` 8, all else off; `target_modules` has none here.
    ///
    /// # Errors
    /// A key that is missing, mistyped or of a value unknown here.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let map: Map<String, Value> =
            serde_json::from_str(text).map_err(|e| wrong("(file)", "a JSON object", e))?;
        Self::try_from(map)
    }

    /// Reads and checks `DIR/adapter_config.json`.
    ///
    /// # Errors
    /// As [`LoraConfig::parse`], or a file that cannot be read.
    pub fn load(dir: &Path) -> Result<Self, Error> {
        let path = dir.join(ADAPTER_CONFIG);
        let text = fs::read_to_string(&path).map_err(|e| Error::file(&path, format!("reading: {e}")))?;
        Self::parse(&text).map_err(|e| match e {
            Error::File { what, .. } => Error::file(&path, what),
            other => other,
        })
    }

    /// Whether `dir` holds an adapter and no model of its own.
    pub fn is_in(dir: &Path) -> bool {
        dir.join(ADAPTER_CONFIG).is_file() && !dir.join("config.json").is_file()
    }

    /// The folder of the base model: `given`, or what `base_model_name_or_path` names, from the adapter's
    /// folder `dir` or from the working folder.
    ///
    /// # Errors
    /// A folder that is not there, or no name.
    pub fn base_folder(&self, dir: &Path, given: Option<&Path>) -> Result<PathBuf, Error> {
        if let Some(folder) = given {
            return Ok(folder.to_owned());
        }
        let expected = "the folder of the base model (write its path there, or give the folder beside the \
                        adapter's)";
        let key = "base_model_name_or_path";
        let refuse = |found: &str| {
            Error::file(dir.join(ADAPTER_CONFIG), format!("{key}: expected {expected}, found {found}"))
        };
        let Some(name) = self.base_model_name_or_path.as_deref().filter(|n| !n.is_empty()) else {
            return Err(refuse("nothing"));
        };
        let places = [dir.join(name), PathBuf::from(name)];
        let found = places.iter().find(|place| place.join("config.json").is_file());
        found.cloned().ok_or_else(|| refuse(&format!("{name}, where no config.json is")))
    }

    /// Whether adapters of this kind can be trained here.
    ///
    /// # Errors
    /// DoRA, or a dropout other than zero.
    pub fn check_trainable(&self) -> Result<(), Error> {
        if self.use_dora {
            return Err(wrong("use_dora", "false (DoRA is read and folded in, not trained)", true));
        }
        if self.lora_dropout > 0.0 {
            return Err(wrong("lora_dropout", "0 (training has no dropout)", self.lora_dropout));
        }
        Ok(())
    }

    /// Checks the numbers, which may have been set by hand.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let rank = |key: &str, r: usize| match r {
            1..=MOST => Ok(()),
            _ => Err(wrong(key, format!("1 to {MOST}"), r)),
        };
        let alpha = |key: &str, x: f64| {
            if x.is_finite() { Ok(()) } else { Err(wrong(key, "a finite number", x)) }
        };
        rank("r", self.r)?;
        alpha("lora_alpha", self.lora_alpha)?;
        self.rank_pattern.iter().try_for_each(|(k, r)| rank(&format!("rank_pattern.{k}"), *r))?;
        self.alpha_pattern.iter().try_for_each(|(k, x)| alpha(&format!("alpha_pattern.{k}"), *x))?;
        if self.layers_to_transform.is_some() && self.target_modules == Targets::AllLinear {
            return Err(wrong("layers_to_transform", "null beside all-linear", "a list"));
        }
        let plain = |k: &str| k.chars().all(|c| c.is_alphanumeric() || "_-.".contains(c));
        let keys = self.rank_pattern.keys().chain(self.alpha_pattern.keys());
        match keys.map(|k| k.strip_prefix('^').unwrap_or(k)).find(|k| !plain(k)) {
            Some(key) => Err(wrong("rank_pattern, alpha_pattern", "names without wildcards", key)),
            None => Ok(()),
        }
    }

    /// Calls a module by another name.
    pub(crate) fn rename(&mut self, old: &str, new: &str) {
        let targets = match &mut self.target_modules {
            Targets::Names(names) => names.as_mut_slice(),
            Targets::AllLinear => &mut [],
        };
        let all = targets.iter_mut().chain(&mut self.modules_to_save).chain(&mut self.exclude_modules);
        all.filter(|name| *name == old).for_each(|name| new.clone_into(name));
    }

    /// The file's keys.
    pub fn to_map(&self) -> Map<String, Value> {
        let whole = |x: f64| if x.fract().abs() > 0.0 { json!(x) } else { json!(x as i64) };
        let list = |names: &[String]| if names.is_empty() { Value::Null } else { json!(names) };
        let mut map = self.rest.clone();
        let targets = match &self.target_modules {
            Targets::AllLinear => json!("all-linear"),
            Targets::Names(names) => json!(names),
        };
        let init = match self.init_lora_weights {
            InitWeights::Standard => json!(true),
            InitWeights::Gaussian => json!("gaussian"),
            InitWeights::Random => json!(false),
        };
        let alphas: Map<String, Value> =
            self.alpha_pattern.iter().map(|(k, x)| (k.clone(), whole(*x))).collect();
        let own = [
            ("peft_type", json!("LORA")),
            ("task_type", json!(self.task_type.map(Task::name))),
            ("base_model_name_or_path", json!(self.base_model_name_or_path)),
            ("r", json!(self.r)),
            ("lora_alpha", whole(self.lora_alpha)),
            ("lora_dropout", json!(self.lora_dropout)),
            ("use_rslora", json!(self.use_rslora)),
            ("use_dora", json!(self.use_dora)),
            ("target_modules", targets),
            ("exclude_modules", list(&self.exclude_modules)),
            ("layers_to_transform", json!(self.layers_to_transform)),
            ("modules_to_save", list(&self.modules_to_save)),
            ("rank_pattern", json!(self.rank_pattern)),
            ("alpha_pattern", Value::Object(alphas)),
            ("ensure_weight_tying", json!(self.ensure_weight_tying)),
            ("init_lora_weights", init),
            ("bias", json!("none")),
            ("inference_mode", json!(true)),
        ];
        map.extend(own.map(|(key, value)| (key.to_owned(), value)));
        map
    }
}

impl From<LoraConfig> for Map<String, Value> {
    fn from(config: LoraConfig) -> Self {
        config.to_map()
    }
}

impl TryFrom<Map<String, Value>> for LoraConfig {
    type Error = Error;

    fn try_from(map: Map<String, Value>) -> Result<Self, Error> {
        let keys = Keys(&map);
        if keys.given("peft_type").is_some_and(|kind| kind != "LORA") {
            return Err(keys.wrong("peft_type", "LORA"));
        }
        keys.refuse_unknown()?;
        let targets = match keys.given("target_modules") {
            Some(Value::String(all)) if all.eq_ignore_ascii_case("all-linear") => Targets::AllLinear,
            Some(Value::Array(_)) => Targets::Names(keys.names("target_modules")?),
            _ => {
                let expected = "a list of names, or all-linear (regular expressions are not read)";
                return Err(keys.wrong("target_modules", expected));
            }
        };
        let mut config = Self {
            use_rslora: keys.flag("use_rslora")?,
            exclude_modules: keys.names("exclude_modules")?,
            layers_to_transform: keys.layers()?,
            modules_to_save: keys.names("modules_to_save")?,
            rank_pattern: keys.pattern("rank_pattern", "a positive whole number", size)?,
            alpha_pattern: keys.pattern("alpha_pattern", "a number", Value::as_f64)?,
            use_dora: keys.flag("use_dora")?,
            ensure_weight_tying: keys.flag("ensure_weight_tying")?,
            lora_dropout: keys.number("lora_dropout", 0.0)?,
            init_lora_weights: keys.init()?,
            task_type: keys.task()?,
            base_model_name_or_path: keys.text("base_model_name_or_path")?,
            ..Self::new(keys.rank()?, keys.number("lora_alpha", 8.0)?, targets)
        };
        config.check()?;
        let own = config.to_map();
        config.rest = map;
        config.rest.retain(|key, _| !own.contains_key(key));
        Ok(config)
    }
}

fn size(value: &Value) -> Option<usize> {
    value.as_u64().and_then(|n| usize::try_from(n).ok())
}

/// The keys of a file, asked by name and type.
struct Keys<'a>(&'a Map<String, Value>);

impl<'a> Keys<'a> {
    fn given(&self, key: &str) -> Option<&'a Value> {
        self.0.get(key).filter(|value| !value.is_null())
    }

    fn wrong(&self, key: &str, expected: &str) -> Error {
        wrong(key, expected, self.0.get(key).map_or_else(|| "nothing".to_owned(), Value::to_string))
    }

    fn refuse_unknown(&self) -> Result<(), Error> {
        let off = |value: &Value| match value {
            Value::Null => true,
            Value::Bool(on) => !on,
            Value::Array(all) => all.is_empty(),
            Value::Object(all) => all.is_empty(),
            _ => false,
        };
        let on = UNKNOWN_HERE.iter().find(|key| self.given(key).is_some_and(|value| !off(value)));
        if let Some(key) = on {
            return Err(self.wrong(key, "nothing (not known here)"));
        }
        match self.given("bias") {
            Some(bias) if bias != "none" => Err(self.wrong("bias", "none")),
            _ => Ok(()),
        }
    }

    fn flag(&self, key: &str) -> Result<bool, Error> {
        self.given(key).map_or(Ok(false), |v| v.as_bool().ok_or_else(|| self.wrong(key, "true or false")))
    }

    fn number(&self, key: &str, default: f64) -> Result<f64, Error> {
        self.given(key).map_or(Ok(default), |v| v.as_f64().ok_or_else(|| self.wrong(key, "a number")))
    }

    fn rank(&self) -> Result<usize, Error> {
        let r = self.given("r").map_or(Some(8), size).filter(|r| *r > 0);
        r.ok_or_else(|| self.wrong("r", "a positive whole number"))
    }

    fn text(&self, key: &str) -> Result<Option<String>, Error> {
        let text = |v: &Value| v.as_str().map(str::to_owned).ok_or_else(|| self.wrong(key, "a text"));
        self.given(key).map(text).transpose()
    }

    fn names(&self, key: &str) -> Result<Vec<String>, Error> {
        let Some(value) = self.given(key) else { return Ok(Vec::new()) };
        let all = value.as_array().map(|all| all.iter().map(|v| v.as_str().map(str::to_owned)).collect());
        all.and_then(|names: Option<Vec<String>>| names).ok_or_else(|| self.wrong(key, "a list of names"))
    }

    /// One index or a list of them; an empty list is none, as PEFT has it.
    fn layers(&self) -> Result<Option<Vec<usize>>, Error> {
        let key = "layers_to_transform";
        let wrong = || self.wrong(key, "a list of block indices");
        match self.given(key) {
            None => Ok(None),
            Some(Value::Array(all)) if all.is_empty() => Ok(None),
            Some(Value::Array(all)) => {
                all.iter().map(size).collect::<Option<_>>().map(Some).ok_or_else(wrong)
            }
            Some(one) => size(one).map(|i| Some(vec![i])).ok_or_else(wrong),
        }
    }

    fn pattern<T>(
        &self,
        key: &str,
        expected: &str,
        read: impl Fn(&Value) -> Option<T>,
    ) -> Result<BTreeMap<String, T>, Error> {
        let Some(value) = self.given(key) else { return Ok(BTreeMap::new()) };
        let all = value.as_object().ok_or_else(|| self.wrong(key, "an object"))?;
        let one = |(name, v): (&String, &Value)| {
            let x = read(v).ok_or_else(|| wrong(&format!("{key}.{name}"), expected, v))?;
            // A dot in a name is often escaped: these are regular expressions to PEFT.
            Ok((name.replace("\\.", "."), x))
        };
        all.iter().map(one).collect()
    }

    fn init(&self) -> Result<InitWeights, Error> {
        match self.given("init_lora_weights") {
            None | Some(Value::Bool(true)) => Ok(InitWeights::Standard),
            Some(Value::Bool(false)) => Ok(InitWeights::Random),
            Some(Value::String(name)) if name == "gaussian" => Ok(InitWeights::Gaussian),
            Some(_) => Err(self.wrong("init_lora_weights", "true, false or gaussian")),
        }
    }

    fn task(&self) -> Result<Option<Task>, Error> {
        match self.text("task_type")?.as_deref() {
            None => Ok(None),
            Some("CAUSAL_LM") => Ok(Some(Task::Causal)),
            Some("SEQ_CLS") => Ok(Some(Task::Classifier)),
            Some(_) => Err(self.wrong("task_type", "CAUSAL_LM or SEQ_CLS")),
        }
    }
}
