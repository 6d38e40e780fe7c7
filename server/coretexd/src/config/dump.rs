//! The configuration as it would be used, as a TOML file that loads again.

use super::load::{Loaded, Origin};
use super::settings::{SECTIONS, SETTINGS};

/// Prints every value with its origin behind it; secrets are masked, values that are not set are
/// comments.
#[must_use]
pub fn dump(loaded: &Loaded) -> String {
    let mut text = format!(
        "# The configuration of coretexd {} as it would be used.\n\
         # Behind each value stands where it comes from; secrets are masked.\n\n",
        env!("CARGO_PKG_VERSION")
    );
    section(loaded, "", &mut text);
    for info in SECTIONS {
        text.push_str(&format!("\n[{}]\n", info.name));
        section(loaded, info.name, &mut text);
    }
    text
}

fn section(loaded: &Loaded, name: &str, text: &mut String) {
    for setting in SETTINGS.iter().filter(|setting| setting.parts().0 == name) {
        let (_, key) = setting.parts();
        let origin = loaded.origins.get(setting.key).unwrap_or(&Origin::Default);
        // The name of a file may hold anything, a comment must stay one line.
        let origin = origin.to_string().replace(char::is_control, "?");
        match setting.masked(&loaded.config) {
            Some(value) => text.push_str(&format!("{key} = {value} # {origin}\n")),
            None => text.push_str(&format!("# {key} is not set\n")),
        }
    }
}
