//! Types that the gateway's crates have in common: time, eras, refusals, owners of shares, bounded tables, buffers, escaped
//! text, secrets, and settings of the net: URLs, hosts, classes of addresses, bounds and deadlines of connections, versions
//! of TLS and HTTP, pins.
//!
//! Nothing here opens a socket or a file, starts a task, logs, or reads the time by itself: time
//! comes in through [`Clock`].

mod address;
mod buffer;
mod clock;
mod denial;
mod era;
mod hosts;
mod net;
mod owner;
mod pin;
mod secret;
pub mod table;
pub mod text;
mod url;

pub use address::{AddressClass, AddressGrant};
pub use buffer::Buffer;
pub use clock::{Clock, ManualClock, Moment};
pub use denial::{Challenge, Denial, Reason};
pub use era::Era;
pub use hosts::{HostPattern, OriginPattern, OriginRule};
pub use net::{ClientCertificateMode, ConnectionLimits, HttpVersion, Pool, Timeouts, TlsVersion, UnknownSni};
pub use owner::Owner;
pub use pin::{Pin, PinMismatch};
pub use secret::Secret;
pub use url::{Host, Scheme, UpstreamUrl};
