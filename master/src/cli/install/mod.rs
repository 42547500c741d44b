//! `forkgate install` and `forkgate uninstall`: units, user, settings with a secret, and what goes with them.
//!
//! Both find out first what they would change, show it, and ask. Both may be repeated: a second time changes nothing.
//!
//! | file | the next `install` | `uninstall` | `uninstall --purge` |
//! |---|---|---|---|
//! | the program | replaced when it is another one | removed | removed |
//! | units and the like, as they were written | replaced when the text is another one | removed | removed |
//! | the same, edited since | kept; replaced with `--force` | kept | removed |
//! | settings (the env file) | kept | kept | removed |
//! | state, cache, logs; the user | – | kept | removed |
//!
//! What was there before the first `install` is not on its list ([`manifest`]) and is never removed.

mod files;
mod manager;
mod manifest;
mod place;
mod plan;
mod write;

use std::io::{self, BufRead as _, IsTerminal as _};
use std::path::{Path, PathBuf};
use std::process::{ExitCode, ExitStatus};

use clap::Args;

use self::files::{File, Kind};
use self::manifest::Manifest;
use self::place::{Place, Scope};
use self::plan::{Change, Step};
use super::output;

/// What `install --help` says at its end.
pub(super) const INSTALL_EXAMPLES: &str = "\
Examples:
  forkgate install --system --dry-run       what would it do?
  sudo forkgate install --system --now      shows it, asks, does it, starts the service
  forkgate install --user                   for yourself, without root: in ~/.config/systemd/user
  forkgate install --system --root=DIR -y   into the files of another system: a package, an image

Run it again with a new version: settings and what you edited stay. A running service takes the new program over with
`forkgate ctl upgrade`.";

/// What `uninstall --help` says at its end.
pub(super) const UNINSTALL_EXAMPLES: &str = "\
Examples:
  forkgate uninstall --system --dry-run     what would it do?
  sudo forkgate uninstall --system          stops the service; keeps settings, state and the user
  sudo forkgate uninstall --system --purge  keeps nothing";

/// Where to.
#[derive(Args)]
#[group(id = "scope", required = true, multiple = false)]
struct ScopeArgs {
    /// For the machine; needs root
    #[arg(long)]
    system: bool,
    /// For whoever runs this, under the user's own service manager
    #[arg(long)]
    user: bool,
}

/// Options of both.
#[derive(Args)]
struct CommonArgs {
    #[command(flatten)]
    scope: ScopeArgs,
    /// Into a directory that holds the files of another system
    #[arg(long, value_name = "DIR", conflicts_with = "user")]
    root: Option<PathBuf>,
    /// Only show what would be done
    #[arg(long)]
    dry_run: bool,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

/// Options of `install`.
#[derive(Args)]
pub(super) struct InstallArgs {
    #[command(flatten)]
    common: CommonArgs,
    /// With the hardened variant of the unit, a drop-in
    #[arg(long, conflicts_with = "user")]
    hardened: bool,
    /// Start the service, now and with the machine
    #[arg(long, conflicts_with = "root")]
    now: bool,
    /// Replace units and the like also when somebody has edited them; never the settings
    #[arg(long)]
    force: bool,
}

/// Options of `uninstall`.
#[derive(Args)]
pub(super) struct UninstallArgs {
    #[command(flatten)]
    common: CommonArgs,
    /// Remove settings, state, cache, logs and the user, too
    #[arg(long)]
    purge: bool,
}

/// Why something could not be installed or removed.
#[derive(Debug, thiserror::Error)]
enum InstallError {
    #[error(
        "a service of the machine needs root: run this with sudo, or take --user for a service of your own"
    )]
    NotRoot,
    #[error(
        "this machine was not booted with systemd (there is no /run/systemd/system), so nothing would start the service; \
         --root DIR writes the files of another machine, and docs/containers.md says how forkgate runs in a container"
    )]
    NotBooted,
    #[error("--root {root}: there is no such directory", root = .root.display())]
    NoRoot { root: PathBuf },
    #[error("$HOME is not set to a directory: --user does not know where to")]
    NoHome,
    #[error(
        "your service manager does not run (there is no $XDG_RUNTIME_DIR/systemd/private): log in as this user (su and sudo \
         do not start one), or have root run `loginctl enable-linger USER` once"
    )]
    NoUserManager,
    #[error("{path}: {source}", path = .path.display())]
    File { path: PathBuf, source: io::Error },
    #[error(
        "{path} is not the list that `forkgate install` writes ({source}): repair it, or remove it and what it names by hand",
        path = .path.display()
    )]
    Manifest { path: PathBuf, source: serde_json::Error },
    #[error("cannot run `{command}`: {source}")]
    NoCommand { command: String, source: io::Error },
    #[error("`{command}` failed ({status}): {said}")]
    Command { command: String, status: ExitStatus, said: String },
    #[error(
        "nothing was changed: nobody can be asked here (stdin is no terminal); --yes does it without, --dry-run only shows it"
    )]
    NobodyToAsk,
    #[error("nothing was changed")]
    Declined,
}

/// Installs; exit code 1 with the reason on stderr when that did not happen.
pub(super) fn install(args: InstallArgs) -> ExitCode {
    ended(try_install(&args))
}

/// Uninstalls; else as [`install`].
pub(super) fn uninstall(args: UninstallArgs) -> ExitCode {
    ended(try_uninstall(&args))
}

fn ended(result: Result<(), InstallError>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::complain("error", &error.to_string());
            ExitCode::FAILURE
        }
    }
}

impl CommonArgs {
    fn place(&self) -> Result<Place, InstallError> {
        if self.scope.user { Place::user() } else { Place::system(self.root.clone()) }
    }

    /// Shows a plan; true when it is to be done.
    fn shows(&self, title: &str, plan: &str) -> Result<bool, InstallError> {
        output::print(&format!("{title}\n{plan}"));
        if self.dry_run {
            return Ok(false);
        }
        if self.yes {
            return Ok(true);
        }
        if !io::stdin().is_terminal() {
            return Err(InstallError::NobodyToAsk);
        }
        output::print("Go on? [y/N] ");
        let mut answer = String::new();
        let _ = io::stdin().lock().read_line(&mut answer);
        if matches!(answer.trim(), "y" | "Y" | "yes") { Ok(true) } else { Err(InstallError::Declined) }
    }
}

fn try_install(args: &InstallArgs) -> Result<(), InstallError> {
    let place = args.common.place()?;
    let mut made = Manifest::load(&place)?;
    // An upgrade does not soften what was hardened.
    let hardened = args.hardened || made.files.contains_key(&files::hardened_path());
    let files = files::wanted(&place, hardened);
    let steps = plan::install(&place, &files, &made, args.force)?;
    // Below --root the user is made when that system boots, and owns the settings from then on.
    let needs_user = place.is_live() && place.needs_user();
    let changes = steps.iter().any(|step| step.change.writes());
    let mut commands = Vec::new();
    if needs_user {
        commands.push(manager::make_user());
    }
    if changes && place.is_live() {
        commands.push(manager::read_units(&place));
    }
    if args.now {
        commands.push(manager::enable(&place));
    }
    let title = format!("forkgate {}, to be installed:", env!("CARGO_PKG_VERSION"));
    let lines: Vec<String> = commands.iter().map(|words| words.join(" ")).collect();
    let shown = plan::render(&place, &steps, &lines);
    if !changes && commands.is_empty() {
        output::print(&format!("{shown}nothing to do\n"));
        return Ok(());
    }
    if !args.common.shows(&title, &shown)? {
        return Ok(());
    }
    let was_active = manager::is_active(&place);
    write_all(&place, &files, &steps, &mut made, needs_user)?;
    // The user is there since the file that describes it was written.
    for words in commands.iter().skip(usize::from(needs_user)) {
        manager::run(words)?;
    }
    output::print(&next(&place, was_active, args.now));
    Ok(())
}

/// Writes what the plan says; the list grows with each file, so that it is right wherever this stops.
fn write_all(
    place: &Place,
    files: &[File],
    steps: &[Step],
    made: &mut Manifest,
    needs_user: bool,
) -> Result<(), InstallError> {
    for (directory, mode) in plan::directories(place, steps) {
        let new = write::directory(&place.on_disk(&directory), mode)?;
        let inside = |path: &PathBuf| Path::new("/").join(path.strip_prefix(&place.root).unwrap_or(path));
        made.directories.extend(new.iter().map(inside));
    }
    made.save(place)?;
    for (file, step) in files.iter().zip(steps) {
        let own = files::settings_directory(place);
        if file.kind == Kind::Settings && made.directories.contains(&own) {
            write::group(&place.on_disk(&own), place.service_group())?;
        }
        if step.change.writes() {
            let digest = write_file(place, file)?;
            made.files.insert(file.path.clone(), digest);
            made.save(place)?;
        }
        if needs_user && file.path == Path::new(files::SYSUSERS_FILE) {
            manager::run(&manager::make_user())?;
            made.user = true;
            made.save(place)?;
        }
    }
    Ok(())
}

/// Writes one file; its digest.
fn write_file(place: &Place, file: &File) -> Result<String, InstallError> {
    let path = place.on_disk(&file.path);
    let failed = |source| InstallError::File { path: path.clone(), source };
    match file.kind {
        Kind::Program => {
            let mut program = std::fs::File::open("/proc/self/exe").map_err(failed)?;
            write::file(&path, &mut program, file.mode, None)?;
        }
        Kind::Text(text) => write::file(&path, &mut text.as_bytes(), file.mode, None)?,
        Kind::Settings => {
            let text = files::first_settings(&super::demo::secret());
            write::file(&path, &mut text.as_bytes(), file.mode, place.service_group())?;
        }
    }
    Ok(manifest::digest_of_file(&path).map_err(failed)?.unwrap_or_default())
}

/// What to do now.
fn next(place: &Place, was_active: bool, started: bool) -> String {
    let settings = place.on_disk(&place.settings());
    let settings = settings.display();
    let (systemctl, program) = match place.scope {
        Scope::System => ("systemctl", "forkgate"),
        Scope::User { .. } => ("systemctl --user", "~/.local/bin/forkgate"),
    };
    let mut text = "done\n".to_owned();
    if !place.is_live() {
        return text;
    }
    if was_active {
        text += &format!(
            "The service runs with what it was started with: `{program} ctl upgrade` makes it the new program, \
             `{systemctl} restart forkgate` also reads a new unit.\n"
        );
    } else if !started {
        text += &format!("Next: look at {settings}, then `{systemctl} enable --now forkgate`\n");
    }
    text += &format!("A token: `{program} token create --sub me --admin --env-file {settings}`\n");
    text
}

fn try_uninstall(args: &UninstallArgs) -> Result<(), InstallError> {
    let place = args.common.place()?;
    let mut made = Manifest::load(&place)?;
    let steps = plan::uninstall(&place, &made, args.purge)?;
    let removes = steps.iter().any(|step| step.change == Change::Removed);
    let removes_user = args.purge && made.user && place.is_live();
    if made.is_empty() || !(removes || removes_user) {
        let kept = plan::render(&place, &steps, &[]);
        output::print(&format!("{kept}nothing to remove that `forkgate install` made\n"));
        return Ok(());
    }
    let unit = steps.iter().any(|step| step.path.ends_with("forkgate.service"));
    let mut commands = Vec::new();
    if place.is_live() && unit {
        commands.push(manager::disable(&place));
        commands.push(manager::read_units(&place));
    }
    if removes_user {
        commands.push(manager::remove_user());
    }
    let lines: Vec<String> = commands.iter().map(|words| words.join(" ")).collect();
    if !args.common.shows("forkgate, to be uninstalled:", &plan::render(&place, &steps, &lines))? {
        return Ok(());
    }
    // Nothing is taken from under a service that runs.
    if place.is_live() && unit {
        manager::run(&manager::disable(&place))?;
    }
    remove_all(&place, &steps, &mut made)?;
    if place.is_live() && unit {
        manager::run(&manager::read_units(&place))?;
    }
    if removes_user {
        manager::run(&manager::remove_user())?;
        made.user = false;
    }
    finish(&place, &mut made)?;
    let kept = steps.iter().any(|step| step.change != Change::Removed);
    output::print(if kept { "done; what is kept goes with --purge\n" } else { "done\n" });
    Ok(())
}

fn remove_all(place: &Place, steps: &[Step], made: &mut Manifest) -> Result<(), InstallError> {
    for step in steps.iter().filter(|step| step.change == Change::Removed) {
        let path = place.on_disk(&step.path);
        if path.is_dir() {
            write::remove_all(&path)?;
        } else {
            write::remove(&path)?;
        }
        made.files.remove(&step.path);
        made.save(place)?;
    }
    made.files.retain(|path, _| place.on_disk(path).exists());
    Ok(())
}

/// Removes directories that are empty now, and the list with its own directory when nothing else is left.
fn finish(place: &Place, made: &mut Manifest) -> Result<(), InstallError> {
    let own = files::settings_directory(place);
    // The innermost first.
    for directory in made.directories.clone().into_iter().rev().filter(|path| !own.starts_with(path)) {
        if write::remove_empty(&place.on_disk(&directory))? {
            made.directories.remove(&directory);
        }
    }
    if !made.files.is_empty() || made.user {
        return made.save(place);
    }
    Manifest::default().save(place)?;
    for directory in made.directories.iter().rev() {
        write::remove_empty(&place.on_disk(directory))?;
    }
    Ok(())
}
