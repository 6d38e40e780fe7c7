//! The configuration as it would be used, as a TOML file that loads again.

use super::load::{Loaded, Origin};
use super::settings::{SECTIONS, SETTINGS};
use super::{notify, routing};

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
    let file = loaded.file.as_ref().map(|file| file.path.display());
    let file = file.map_or_else(String::new, |path| path.to_string());
    text.push_str(&routing::show(&loaded.config.routing, &one_line(&file)));
    text.push_str(&notify::show(&loaded.config.notify, &one_line(&file)));
    text
}

fn section(loaded: &Loaded, name: &str, text: &mut String) {
    for setting in SETTINGS.iter().filter(|setting| setting.parts().0 == name) {
        let (_, key) = setting.parts();
        let origin = loaded.origins.get(setting.key).unwrap_or(&Origin::Default);
        let origin = one_line(&origin.to_string());
        match setting.masked(&loaded.config) {
            Some(value) => text.push_str(&format!("{key} = {value} # {origin}\n")),
            None => text.push_str(&format!("# {key} is not set\n")),
        }
    }
}

/// The name of a file may hold anything, a comment must stay one line.
fn one_line(origin: &str) -> String {
    origin.replace(char::is_control, "?")
}
