//! The names under which listening sockets lie in the service manager's store, so that the next master knows what each is.
//!
//! | name | socket |
//! |---|---|
//! | `member#SLOT#INDEX#ADDRESS` | a slot's own of a TCP address; the index is the kernel's, see [`super::group`] |
//! | `unix#DEVICE#INODE#PATH` | the one of a unix socket, with the file that it was bound as |
//! | `admin#ADDRESS` | the one of the admin port |
//!
//! A name may have 255 printable ASCII characters, without a colon (`sd_pid_notify_with_fds(3)`): a colon is written as a
//! comma, and a comma, a percent sign and everything that is not printable as `%XX`. The address is the one of the settings,
//! for people and to be compared with; whether the socket is really there is asked of the socket.

use std::fmt::Write;
use std::os::unix::ffi::OsStrExt;

use forkgate_shared::settings::Bind;

use crate::supervisor::SlotId;

/// `FDNAME_MAX` of systemd.
const MOST: usize = 255;
/// The index of a socket in a group whose order is not known.
pub(super) const UNKNOWN: u32 = u32::MAX;

/// What a name says beside the address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Label {
    /// Of a group.
    Member {
        /// Whose it is.
        slot: SlotId,
        /// The kernel's index of it, or [`UNKNOWN`].
        index: u32,
    },
    /// Device and number of the file.
    Unix(u64, u64),
    /// Of the admin port.
    Admin,
}

/// The name; none when it would be too long, which only a path with many characters outside ASCII is.
pub(super) fn name(label: Label, bind: &Bind) -> Option<String> {
    let address = written(bind);
    let name = match label {
        Label::Member { slot, index } => format!("member#{}#{index}#{address}", slot.0),
        Label::Unix(device, inode) => format!("unix#{device}#{inode}#{address}"),
        Label::Admin => format!("admin#{address}"),
    };
    (name.len() <= MOST).then_some(name)
}

/// What a name says, and the address as [`written`] writes it; none for a name that is not of this kind.
pub(super) fn parse(name: &str) -> Option<(Label, &str)> {
    let (kind, rest) = name.split_once('#')?;
    if kind == "admin" {
        return Some((Label::Admin, rest));
    }
    let (first, rest) = rest.split_once('#')?;
    let (second, address) = rest.split_once('#')?;
    let label = match kind {
        "member" => Label::Member { slot: SlotId(first.parse().ok()?), index: second.parse().ok()? },
        "unix" => Label::Unix(first.parse().ok()?, second.parse().ok()?),
        _ => return None,
    };
    Some((label, address))
}

/// An address in the characters that a name may have.
pub(super) fn written(bind: &Bind) -> String {
    let text = match bind {
        Bind::Tcp(address) => address.to_string().into_bytes(),
        Bind::Unix(path) => path.as_os_str().as_bytes().to_vec(),
    };
    text.into_iter().fold(String::new(), |mut name, byte| {
        match byte {
            b':' => name.push(','),
            b',' | b'%' => drop(write!(name, "%{byte:02X}")),
            byte if byte.is_ascii_graphic() => name.push(char::from(byte)),
            byte => drop(write!(name, "%{byte:02X}")),
        }
        name
    })
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn tcp(text: &str) -> Bind {
        Bind::Tcp(text.parse().expect("an address"))
    }

    #[test]
    fn what_a_name_says_is_read_back() {
        let unix = Bind::Unix(PathBuf::from("/run/a b,c:d#é"));
        let member = Label::Member { slot: SlotId(3), index: 2 };
        for (label, bind, text) in [
            (member, tcp("127.0.0.1:4444"), "member#3#2#127.0.0.1,4444"),
            (Label::Admin, tcp("[::1]:4445"), "admin#[,,1],4445"),
            (Label::Unix(27, 918), unix, "unix#27#918#/run/a%20b%2Cc,d#%C3%A9"),
        ] {
            let name = name(label, &bind).expect("short enough");
            assert_eq!(name, text);
            assert_eq!(parse(&name), Some((label, written(&bind).as_str())));
            assert!(name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':'), "{name}");
        }
    }

    #[test]
    fn other_names_are_nothing_of_ours() {
        for other in ["", "stored", "forkgate.socket", "member#1", "member#x#1#a", "unix#1#a", "socket#1#2#a"]
        {
            assert_eq!(parse(other), None, "{other}");
        }
    }

    #[test]
    fn a_path_is_too_long_when_most_of_it_is_not_ascii() {
        let path = |character: &str| Bind::Unix(PathBuf::from(format!("/{}", character.repeat(106))));
        assert!(name(Label::Unix(u64::MAX, u64::MAX), &path("x")).is_some());
        assert_eq!(name(Label::Unix(1, 1), &path("\u{e9}")), None);
    }
}
