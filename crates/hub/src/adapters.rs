//! Finds the LoRA file of a folder.

/// Names that diffusers, peft and our checkpoints use.
const USUAL: [&str; 3] = ["pytorch_lora_weights.safetensors", "adapter_model.safetensors", "adapter.safetensors"];

/// The LoRA file among the files of a folder: the wanted one; or the one with the name that diffusers, peft or our
/// checkpoints use; or the only safetensors file at the top level.
///
/// # Errors
/// A few words, with the names to choose from.
pub fn adapter<'a>(files: &[&'a str], wanted: Option<&str>) -> Result<&'a str, String> {
    let mut choices: Vec<&str> =
        files.iter().copied().filter(|file| ends_in(file, ".safetensors") && !file.contains('/')).collect();
    choices.sort_unstable();
    let named = || match &choices[..] {
        [] => "has no .safetensors file".to_owned(),
        _ => format!("has {}", choices.join(", ")),
    };
    if let Some(wanted) = wanted {
        let found = files.iter().copied().find(|file| *file == wanted);
        return found.ok_or_else(|| format!("has no {wanted}; it {}", named()));
    }
    if let Some(file) =
        USUAL.into_iter().find_map(|name| choices.iter().copied().find(|file| file.eq_ignore_ascii_case(name)))
    {
        return Ok(file);
    }
    match choices[..] {
        [only] => Ok(only),
        [] => {
            let is_usual = |file: &&&str| file.rsplit_once('/').is_some_and(|(_, name)| USUAL.contains(&name));
            let inside: Vec<&str> = files.iter().filter(is_usual).copied().collect();
            if !inside.is_empty() {
                return Err(format!("has its LoRAs in {}: name one of them", inside.join(", ")));
            }
            let pickle = files.iter().find(|file| [".bin", ".ckpt", ".pt"].iter().any(|end| ends_in(file, end)));
            let what =
                pickle.map_or(String::new(), |file| format!("; {file} is a pickle, which can run code: convert it"));
            Err(format!(
                "has no LoRA in safetensors (pytorch_lora_weights.safetensors or adapter_model.safetensors){what}"
            ))
        }
        _ => Err(format!("{}: name one of them", named())),
    }
}

/// In any case of letters.
fn ends_in(file: &str, end: &str) -> bool {
    file.len()
        .checked_sub(end.len())
        .and_then(|at| file.get(at..))
        .is_some_and(|ending| ending.eq_ignore_ascii_case(end))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Id, Layout, files::of_id};

    #[test]
    fn the_file_of_an_adapter() {
        let of = |files: &[&'static str], wanted| adapter(files, wanted);
        let usual = ["README.md", "other.safetensors", "pytorch_lora_weights.safetensors"];
        assert_eq!(of(&usual, None).unwrap(), "pytorch_lora_weights.safetensors");
        assert_eq!(of(&usual, Some("other.safetensors")).unwrap(), "other.safetensors");
        assert_eq!(of(&["a.json", "mine.safetensors", "x/y.safetensors"], None).unwrap(), "mine.safetensors");
        assert_eq!(of(&["a.json", "x/y.safetensors"], Some("x/y.safetensors")).unwrap(), "x/y.safetensors");
        assert_eq!(of(&["a.json", "Style.SAFETENSORS"], None).unwrap(), "Style.SAFETENSORS");
        assert!(of(&["adapter_model.BIN"], None).unwrap_err().contains("adapter_model.BIN is a pickle"));
        assert_eq!(
            of(&["a.safetensors", "b.safetensors"], None).unwrap_err(),
            "has a.safetensors, b.safetensors: name one of them"
        );
        assert!(of(&["adapter_model.bin"], None).unwrap_err().contains("adapter_model.bin is a pickle"));
        assert_eq!(
            of(&["unet/adapter_config.json", "unet/adapter_model.safetensors", "vae/a.safetensors"], None).unwrap_err(),
            "has its LoRAs in unet/adapter_model.safetensors: name one of them"
        );
        assert_eq!(
            of(&usual, Some("c")).unwrap_err(),
            "has no c; it has other.safetensors, pytorch_lora_weights.safetensors"
        );
        let id = Id::parse("a/b").unwrap();
        let files = ["adapter_config.json", "adapter_model.safetensors", "README.md"];
        let both = of_id(&files, Layout::Adapter, &id, true).unwrap();
        assert_eq!(both, ["adapter_model.safetensors", "adapter_config.json"]);
    }
}
