//! Where a monitor is, as the command line says it.

use std::path::PathBuf;

/// Which monitor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// For people (`-monitor`).
    Text,
    /// For programs (`-qmp`).
    Json,
}

/// Where a monitor's clients come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// Nowhere.
    None,
    /// Standard input and output.
    Stdio,
    /// Connections to a Unix socket.
    Unix(PathBuf),
    /// Connections to a TCP port; an empty host is this host alone.
    Tcp {
        /// Name or address, without brackets.
        host: String,
        /// Port; 0 lets the system choose.
        port: u16,
    },
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Stdio => f.write_str("stdio"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp { host, port } if host.contains(':') => write!(f, "tcp:[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "tcp:{host}:{port}"),
        }
    }
}

/// One monitor.
///
/// | text | clients |
/// |---|---|
/// | `none` | none |
/// | `stdio` | standard input and output; its end ends the monitor alone |
/// | `unix:PATH,server[,nowait]` | as many as connect |
/// | `tcp:HOST:PORT,server[,nowait]` | as many as connect |
///
/// The VM never waits for a client, so `nowait`, `wait=off` and their absence mean the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MonitorSpec {
    /// Which monitor.
    pub kind: Kind,
    /// Where.
    pub place: Place,
}

/// What is wrong with the text of a monitor.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{text}' is no place for a monitor: {why}; use stdio, none, unix:PATH,server or tcp:HOST:PORT,server"
)]
pub struct SpecError {
    text: String,
    why: &'static str,
}

impl MonitorSpec {
    /// Reads the command line's text.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str, kind: Kind) -> Result<Self, SpecError> {
        place(text)
            .map(|place| Self { kind, place })
            .map_err(|why| SpecError { text: text.to_owned(), why })
    }
}

fn place(text: &str) -> Result<Place, &'static str> {
    match text {
        "none" => return Ok(Place::None),
        "stdio" => return Ok(Place::Stdio),
        _ => {}
    }
    let mut parts = text.split(',');
    let (scheme, rest) =
        parts.next().unwrap_or_default().split_once(':').ok_or("its kind is not known")?;
    let mut server = false;
    for option in parts {
        match option {
            "server" | "server=on" => server = true,
            "nowait" | "wait" | "wait=off" | "wait=on" | "nodelay" | "nodelay=on" => {}
            _ => return Err("it has an option other than server, wait, nowait, nodelay"),
        }
    }
    let place = match scheme {
        "unix" if rest.is_empty() => return Err("the path is empty"),
        "unix" => Place::Unix(PathBuf::from(rest)),
        "tcp" => {
            let (host, port) = rest.rsplit_once(':').ok_or("the port is missing")?;
            let port = port.parse().map_err(|_| "the port is no number of 0 to 65535")?;
            let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
            Place::Tcp { host, port }
        }
        _ => return Err("its kind is not known"),
    };
    if server { Ok(place) } else { Err("a monitor only listens, so ',server' belongs to it") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_places_of_the_manual_are_understood_and_others_refused() {
        let parse = |text: &str| MonitorSpec::parse(text, Kind::Text).map(|spec| spec.place);
        assert_eq!(parse("none"), Ok(Place::None));
        assert_eq!(parse("stdio"), Ok(Place::Stdio));
        assert_eq!(parse("unix:/a/b,server"), Ok(Place::Unix("/a/b".into())));
        assert_eq!(parse("unix:/a,server=on,wait=off"), Ok(Place::Unix("/a".into())));
        let tcp = |host: &str, port| Ok(Place::Tcp { host: host.to_owned(), port });
        assert_eq!(parse("tcp:127.0.0.1:4,server,nowait"), tcp("127.0.0.1", 4));
        assert_eq!(parse("tcp::0,server,nowait"), tcp("", 0));
        assert_eq!(parse("tcp:[::1]:4,server"), tcp("::1", 4));
        for bad in [
            "",
            "pty",
            "unix:,server",
            "unix:/a",
            "tcp:h,server",
            "tcp:h:x,server",
            "unix:/a,server,x",
        ] {
            let error = parse(bad).unwrap_err().to_string();
            assert!(error.contains("use stdio"), "{bad}: {error}");
        }
    }
}
