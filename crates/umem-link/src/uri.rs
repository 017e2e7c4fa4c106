//! Where a migration goes or comes from, as the user writes it.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// One end of a migration's connections.
///
/// | text | connects to | listens on |
/// |---|---|---|
/// | `tcp:HOST:PORT` | that host (a name, IPv4, or IPv6 in brackets) | that address |
/// | `tcp:0:PORT`, `tcp::PORT` | this host | all addresses |
/// | `unix:PATH` | that socket | a socket made there |
/// | `fd:N` | the connected socket with that descriptor: one connection carries everything | the same, or accepts from a listening socket |
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// TCP.
    Tcp {
        /// Name or address without brackets; `None` is the wildcard.
        host: Option<String>,
        /// Port; 0 lets the system choose when listening.
        port: u16,
    },
    /// Unix stream socket at a path.
    Unix(PathBuf),
    /// Descriptor inherited by this process.
    Fd(i32),
}

/// What is wrong with a URI.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is no migration address: {why}; use tcp:HOST:PORT, unix:PATH or fd:N")]
pub struct UriError {
    text: String,
    why: &'static str,
}

impl FromStr for Endpoint {
    type Err = UriError;

    fn from_str(text: &str) -> Result<Self, UriError> {
        let fail = |why| UriError { text: text.to_owned(), why };
        let (scheme, rest) = text.split_once(':').ok_or_else(|| fail("no ':' after its kind"))?;
        match scheme {
            "tcp" => parse_tcp(rest).map_err(fail),
            "unix" if rest.is_empty() => Err(fail("the path is empty")),
            "unix" => Ok(Self::Unix(PathBuf::from(rest))),
            "fd" => match rest.parse::<i32>() {
                Ok(number) if number >= 0 => Ok(Self::Fd(number)),
                _ => Err(fail("the descriptor is no number of 0 or more")),
            },
            _ => Err(fail("its kind is none of tcp, unix, fd")),
        }
    }
}

fn parse_tcp(rest: &str) -> Result<Endpoint, &'static str> {
    let (host, port) = rest.rsplit_once(':').ok_or("the port is missing")?;
    let port = port.parse().map_err(|_| "the port is no number of 0 to 65535")?;
    let bracketed = host.strip_prefix('[').and_then(|inner| inner.strip_suffix(']'));
    let host = match bracketed {
        Some("") => return Err("the address in brackets is empty"),
        Some(inner) => Some(inner.to_owned()),
        None if host.contains(['[', ']']) => return Err("its brackets do not match"),
        None if host.contains(':') => return Err("an IPv6 address needs brackets, as [::1]"),
        None if host.is_empty() || host == "0" => None,
        None => Some(host.to_owned()),
    };
    Ok(Endpoint::Tcp { host, port })
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host: None, port } => write!(f, "tcp:0:{port}"),
            Self::Tcp { host: Some(host), port } if host.contains(':') => {
                write!(f, "tcp:[{host}]:{port}")
            }
            Self::Tcp { host: Some(host), port } => write!(f, "tcp:{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Fd(number) => write!(f, "fd:{number}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tcp(host: Option<&str>, port: u16) -> Endpoint {
        Endpoint::Tcp { host: host.map(str::to_owned), port }
    }

    #[test]
    fn the_forms_of_the_manual_are_understood() {
        let good = [
            ("tcp:0:4444", tcp(None, 4444)),
            ("tcp::4444", tcp(None, 4444)),
            ("tcp:127.0.0.1:1", tcp(Some("127.0.0.1"), 1)),
            ("tcp:[::1]:65535", tcp(Some("::1"), 65535)),
            ("tcp:host.example:9", tcp(Some("host.example"), 9)),
            ("unix:/run/a:b", Endpoint::Unix("/run/a:b".into())),
            ("fd:0", Endpoint::Fd(0)),
        ];
        for (text, endpoint) in good {
            assert_eq!(text.parse::<Endpoint>().as_ref(), Ok(&endpoint), "{text}");
            assert_eq!(endpoint.to_string().parse(), Ok(endpoint));
        }
    }

    #[test]
    fn anything_else_is_refused_with_the_reason() {
        let bad = [
            ("", "no ':'"),
            ("tcp:host", "port is missing"),
            ("tcp:host:x", "port is no number"),
            ("tcp:host:65536", "port is no number"),
            ("tcp:::1:4444", "needs brackets"),
            ("tcp:[::1:4444", "brackets do not match"),
            ("tcp:[]:1", "empty"),
            ("unix:", "path is empty"),
            ("fd:-1", "descriptor"),
            ("fd:x", "descriptor"),
            ("rdma:h:1", "none of tcp"),
        ];
        for (text, why) in bad {
            let error = text.parse::<Endpoint>().unwrap_err().to_string();
            assert!(error.contains(why) && error.contains("use tcp:"), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics_and_what_parses_prints_back(text in ".{0,40}") {
            if let Ok(endpoint) = text.parse::<Endpoint>() {
                prop_assert_eq!(endpoint.to_string().parse::<Endpoint>(), Ok(endpoint));
            }
        }
    }
}
