//! `forkgate check`: the settings as `serve` would take them. Never writes, never listens.

use std::process::ExitCode;

use forkgate_shared::settings::table::{self, Default};
use forkgate_shared::settings::{Loaded, Origin, Settings, Sources};

use super::output;

/// Reports what is wrong, warns of what may surprise, prints what is in force.
pub fn run(sources: Sources, print: bool) -> ExitCode {
    match Settings::load(sources) {
        Ok(loaded) => {
            output::complain("warning", &loaded.warnings.join("\n"));
            output::print(&if print { listing(&loaded) } else { "the settings are valid\n".to_owned() })
        }
        Err(errors) => super::invalid(&errors),
    }
}

/// One line per setting, in the form of an env file: `NAME=value  # where from`.
fn listing(loaded: &Loaded) -> String {
    let lines: Vec<(String, String)> = table::all()
        .map(|setting| {
            let value = setting.masked(&(setting.show)(&loaded.settings));
            let provenance = loaded.origins.get(setting.name);
            let mut origin = provenance.map(ToString::to_string).unwrap_or_default();
            if let (Some(Origin::Default), Default::Computed(words)) =
                (provenance.map(|provenance| &provenance.origin), setting.default)
            {
                origin = format!("{origin}: {words}");
            }
            (format!("{}={value}", setting.name), origin)
        })
        .collect();
    let width = lines.iter().map(|(left, _)| left.chars().count()).max().unwrap_or_default().min(MAX_WIDTH);
    lines.iter().map(|(left, origin)| format!("{left:<width$}  # {origin}\n")).collect()
}

/// Widest first column, in characters; longer values push their own comment only.
const MAX_WIDTH: usize = 60;
