//! Finds the hooks in a directory, in the layouts of both projects.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use super::super::HostError;
use super::script::{Action, actions};

/// The maximum number of bytes that are read from a hook. The rest is ignored.
const MAX_SCRIPT: u64 = 64 << 10;
/// The maximum number of entries that are read from a directory. The rest is ignored.
const MAX_ENTRIES: usize = 1000;

/// The project that hooks come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Project {
    /// <https://github.com/PassthroughPOST/VFIO-Tools>: `qemu.d/DOMAIN/OPERATION/STATE/HOOK`.
    VfioTools,
    /// <https://github.com/portellam/libvirt-hooks>: `qemu` lists the hooks, which run for all domains.
    LibvirtHooks,
}

/// A hook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hook {
    /// Its path below the directory.
    pub path: String,
    /// The project that its path belongs to.
    pub project: Project,
    /// The domain that it is for; `None` if it runs for all domains.
    pub domain: Option<String>,
    /// Whether it is executable. Other hooks do not run.
    pub executable: bool,
    /// What it does.
    pub actions: Vec<Action>,
}

/// Returns all hooks in the directory, in the order of their paths.
///
/// # Errors
/// If a directory or a hook cannot be read.
pub fn hooks(directory: &Path) -> Result<Vec<Hook>, HostError> {
    // Reports a directory that does not exist.
    entries(directory, true)?;
    let mut hooks = Vec::new();
    let main = script(&directory.join("qemu"))?.map(|(text, _)| text).unwrap_or_default();
    for name in listed(&main) {
        if name == "set-hooks" {
            for folder in ["start-only", "stop-only", "start-and-stop"] {
                let path = format!("set-hooks.d/{folder}");
                for name in entries(&directory.join(&path), false)? {
                    hook(directory, format!("{path}/{name}"), None, &mut hooks)?;
                }
            }
        } else {
            hook(directory, name.to_owned(), None, &mut hooks)?;
        }
    }
    for domain in entries(&directory.join("qemu.d"), false)? {
        of_domain(directory, &domain, &mut hooks)?;
    }
    hooks.sort_by(|one, other| one.path.cmp(&other.path));
    Ok(hooks)
}

/// Adds the hooks of a domain: `qemu.d/DOMAIN/OPERATION/STATE` is a hook, or a directory of hooks.
fn of_domain(directory: &Path, domain: &str, hooks: &mut Vec<Hook>) -> Result<(), HostError> {
    let folder = format!("qemu.d/{domain}");
    for operation in entries(&directory.join(&folder), false)? {
        let folder = format!("{folder}/{operation}");
        for state in entries(&directory.join(&folder), false)? {
            let path = format!("{folder}/{state}");
            for name in entries(&directory.join(&path), false)? {
                hook(directory, format!("{path}/{name}"), Some(domain), hooks)?;
            }
            hook(directory, path, Some(domain), hooks)?;
        }
    }
    Ok(())
}

/// Adds the hook at this path, if there is one.
fn hook(
    directory: &Path,
    path: String,
    domain: Option<&str>,
    hooks: &mut Vec<Hook>,
) -> Result<(), HostError> {
    let Some((text, executable)) = script(&directory.join(&path))? else { return Ok(()) };
    let name = path.rsplit('/').next().unwrap_or_default();
    let project = if domain.is_some() { Project::VfioTools } else { Project::LibvirtHooks };
    let actions = actions(name, &text);
    hooks.push(Hook { path, project, domain: domain.map(str::to_owned), executable, actions });
    Ok(())
}

/// The names of the hooks that the `qemu` script of portellam's libvirt-hooks runs: `"${DIR}NAME" "$@"`.
fn listed(main: &str) -> impl Iterator<Item = &str> {
    main.lines().filter(|line| !line.trim().starts_with('#')).filter_map(|line| {
        let (_, rest) = line.split_once("DIR}")?;
        let (name, arguments) = rest.split_once('"')?;
        (arguments.contains("\"$@\"") && !name.is_empty() && !name.contains('/')).then_some(name)
    })
}

/// Returns the text of a script and whether it is executable. `None` if the path is not a file.
fn script(path: &Path) -> Result<Option<(String, bool)>, HostError> {
    let failed = |source| HostError::Read { path: path.to_owned(), source };
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if is_absent(&error) => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    if !metadata.is_file() {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(failed)?;
    file.take(MAX_SCRIPT).read_to_end(&mut bytes).map_err(failed)?;
    let executable = metadata.permissions().mode() & 0o111 != 0;
    Ok(Some((String::from_utf8_lossy(&bytes).into_owned(), executable)))
}

/// The names in a directory. Without `required`, a path that is not a directory has none.
fn entries(path: &Path, required: bool) -> Result<Vec<String>, HostError> {
    let failed = |source| HostError::Read { path: path.to_owned(), source };
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if !required && is_absent(&error) => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    // libvirt's names of domains are UTF-8.
    let names = entries.take(MAX_ENTRIES).map(|entry| Ok(entry?.file_name().into_string().ok()));
    let names: Vec<Option<String>> = names.collect::<Result<_, _>>().map_err(failed)?;
    Ok(names.into_iter().flatten().collect())
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// The names of the projects that the hooks come from.
#[must_use]
pub fn projects(hooks: &[Hook]) -> Vec<&'static str> {
    let names = [(Project::VfioTools, "VFIO-Tools"), (Project::LibvirtHooks, "libvirt-hooks")];
    let found = names.into_iter().filter(|(project, _)| hooks.iter().any(|hook| hook.project == *project));
    found.map(|(_, name)| name).collect()
}
