//! Which files an installation consists of. Their texts are those of the folder `systemd`, so that what is documented, what
//! a package ships and what is installed here are one.

use std::path::{Path, PathBuf};

use super::place::{Place, Scope};

const SERVICE: &str = include_str!("../../../../systemd/forkgate.service");
const HARDENED: &str = include_str!("../../../../systemd/forkgate.service.d/hardened.conf");
const USER_SERVICE: &str = include_str!("../../../../systemd/user/forkgate.service");
const SYSUSERS: &str = include_str!("../../../../systemd/sysusers.d/forkgate.conf");
const TMPFILES: &str = include_str!("../../../../systemd/tmpfiles.d/forkgate.conf");
const LOGROTATE: &str = include_str!("../../../../systemd/logrotate.d/forkgate");

/// The program; the unit's `ExecStart=` names the same.
const SYSTEM_PROGRAM: &str = "/usr/local/bin/forkgate";
/// Where sysusers.d(5) is read, of what an administrator installs.
pub(super) const SYSUSERS_FILE: &str = "/etc/sysusers.d/forkgate.conf";

/// One file of an installation.
#[derive(Clone, Debug)]
pub(super) struct File {
    /// Where, as the installed system sees it.
    pub path: PathBuf,
    /// What for, in a few words.
    pub what: &'static str,
    pub mode: u32,
    pub kind: Kind,
}

/// What is in a file, and by which rule it is replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// This program: replaced when it differs.
    Program,
    /// Text of ours: replaced as long as nobody has edited it.
    Text(&'static str),
    /// The administrator's settings: written once, never replaced; readable by the service's group.
    Settings,
}

/// What is to be installed, in the order in which it is written.
pub(super) fn wanted(place: &Place, hardened: bool) -> Vec<File> {
    let text = |path: PathBuf, what, text| File { path, what, mode: 0o644, kind: Kind::Text(text) };
    let settings = |mode| File { path: place.settings(), what: "your settings", mode, kind: Kind::Settings };
    match &place.scope {
        Scope::System => {
            let etc = |path: &str| PathBuf::from("/etc").join(path);
            let program = PathBuf::from(SYSTEM_PROGRAM);
            let mut files = vec![
                File { path: program, what: "this program", mode: 0o755, kind: Kind::Program },
                text(SYSUSERS_FILE.into(), "the user forkgate", SYSUSERS),
                text(etc("tmpfiles.d/forkgate.conf"), "who may read the settings", TMPFILES),
                settings(0o640),
                text(etc("systemd/system/forkgate.service"), "the unit", SERVICE),
            ];
            if hardened {
                files.push(text(hardened_path(), "the hardened variant", HARDENED));
            }
            files.push(text(etc("logrotate.d/forkgate"), "for GATEWAY_LOG_FILE", LOGROTATE));
            files
        }
        Scope::User { home, config, .. } => vec![
            File {
                path: home.join(".local/bin/forkgate"),
                what: "this program",
                mode: 0o755,
                kind: Kind::Program,
            },
            settings(0o600),
            text(config.join("systemd/user/forkgate.service"), "the unit", USER_SERVICE),
        ],
    }
}

/// Where the drop-in of the hardened variant is.
pub(super) fn hardened_path() -> PathBuf {
    PathBuf::from("/etc/systemd/system/forkgate.service.d/hardened.conf")
}

/// The first settings of an installation: a secret of its own, and what is changed first.
pub(super) fn first_settings(secret: &str) -> String {
    format!(
        "# Settings of forkgate: NAME=value lines. `forkgate check --env-file` on this file says whether they are valid;\n\
         # after a change: `systemctl reload forkgate`. All settings, with defaults and reasons: docs/settings.md.\n\
         \n\
         # Signs tokens: who knows it is an administrator. Made at installation.\n\
         GATEWAY_JWT_SECRET={secret}\n\
         \n\
         # Where clients connect. Loopback, until you decide otherwise.\n\
         #GATEWAY_BIND=127.0.0.1:4444\n\
         #GATEWAY_ALLOWED_HOSTS=mcp.example.com\n\
         \n\
         # Whether MCP servers may be on this machine, and in private networks.\n\
         #SSRF_ALLOW_LOCALHOST=true\n\
         #SSRF_ALLOW_PRIVATE_NETWORKS=true\n"
    )
}

/// Directories that hold what the service made while it ran.
pub(super) fn data(place: &Place) -> Vec<PathBuf> {
    match &place.scope {
        Scope::System => {
            ["/var/lib/forkgate", "/var/log/forkgate", "/var/cache/forkgate"].map(PathBuf::from).to_vec()
        }
        Scope::User { state, .. } => vec![state.clone()],
    }
}

/// The directory of the settings and of the list of what was installed.
pub(super) fn settings_directory(place: &Place) -> PathBuf {
    place.settings().parent().map(Path::to_path_buf).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user() -> Place {
        let (home, config) = (PathBuf::from("/home/me"), PathBuf::from("/home/me/.config"));
        let state = PathBuf::from("/home/me/.local/state/forkgate");
        Place { scope: Scope::User { home, config, state }, root: "/".into() }
    }

    fn system() -> Place {
        Place { scope: Scope::System, root: "/".into() }
    }

    /// A unit that names other places than those where things are installed starts nothing.
    #[test]
    fn units_name_the_files_that_are_installed() {
        for (place, specifiers) in [(system(), ("", "")), (user(), ("/home/me", "/home/me/.config"))] {
            let files = wanted(&place, true);
            let path = |kind: fn(&Kind) -> bool| {
                files.iter().find(|file| kind(&file.kind)).expect("there").path.display().to_string()
            };
            let program = path(|kind| *kind == Kind::Program);
            let settings = path(|kind| *kind == Kind::Settings);
            let unit = files.iter().find(|file| file.path.ends_with("forkgate.service")).expect("a unit");
            let Kind::Text(text) = unit.kind else { panic!("a unit is text") };
            let text = text.replace("%h", specifiers.0).replace("%E", specifiers.1);
            for command in ["check", "serve"] {
                let words = format!("={program} {command} --env-file {settings}\n");
                assert!(text.contains(&words), "{words} in {text}");
            }
            assert!(text.contains(&format!("ExecReload={program} ctl reload")), "{text}");
        }
    }

    #[test]
    fn the_first_settings_set_the_secret_and_nothing_else() {
        let text = first_settings("s3cret");
        let set: Vec<&str> = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
        assert_eq!(set, ["GATEWAY_JWT_SECRET=s3cret"]);
    }

    #[test]
    fn only_the_settings_are_kept_from_others() {
        for place in [system(), user()] {
            for file in wanted(&place, true) {
                assert_eq!(file.mode & 0o007 == 0, file.kind == Kind::Settings, "{}", file.path.display());
                assert_eq!(file.mode & 0o022, 0, "{}", file.path.display());
            }
        }
    }
}
