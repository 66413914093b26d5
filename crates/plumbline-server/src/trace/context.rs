//! W3C Trace Context: `traceparent` and `tracestate` in, `traceresponse` out.

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use ring::rand::{SecureRandom, SystemRandom};

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
/// What the answer says of the trace, as in the W3C's "Trace Context HTTP Response Headers Format".
pub(crate) const TRACERESPONSE: HeaderName = HeaderName::from_static("traceresponse");

/// Bytes of a `tracestate` that are carried, as the specification asks at least.
const MAX_STATE: usize = 512;
/// The flag "sampled".
const SAMPLED: u8 = 1;

/// What a request is known by across services.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceContext {
    /// Of the whole trace; not zero.
    pub trace_id: u128,
    /// Of the caller's span; `None`: the trace begins here.
    pub parent_id: Option<u64>,
    /// Of this request; not zero.
    pub span_id: u64,
    /// Whether the trace is to be kept, by the caller's word; one that begins here is if somebody listens.
    pub sampled: bool,
    /// What vendors carry along, as it came; empty if it was not sent.
    pub state: String,
}

impl TraceContext {
    /// Of a trace that begins here.
    #[must_use]
    pub fn new(sampled: bool) -> Self {
        Self { trace_id: random_trace_id(), parent_id: None, span_id: random_span_id(), sampled, state: String::new() }
    }

    /// The trace's id as logs have it.
    #[must_use]
    pub fn trace_id_hex(&self) -> String {
        format!("{:032x}", self.trace_id)
    }

    /// The span's id as logs have it.
    #[must_use]
    pub fn span_id_hex(&self) -> String {
        format!("{:016x}", self.span_id)
    }

    /// The value of `traceresponse`.
    pub(crate) fn response(&self) -> Option<HeaderValue> {
        let text = format!("00-{:032x}-{:016x}-{:02x}", self.trace_id, self.span_id, u8::from(self.sampled) * SAMPLED);
        HeaderValue::from_str(&text).ok()
    }
}

/// The context of a request with these headers. One that is not as the specification has it counts as missing; `listened`: whether
/// a trace that begins here is to be kept.
pub(crate) fn incoming(headers: &HeaderMap, listened: bool) -> TraceContext {
    let mut parents = headers.get_all(TRACEPARENT).iter();
    let parent = match (parents.next(), parents.next()) {
        (Some(only), None) => only.to_str().ok().and_then(parse),
        _ => None,
    };
    let Some((trace_id, parent_id, flags)) = parent else { return TraceContext::new(listened) };
    let states: Vec<_> = headers.get_all(TRACESTATE).iter().filter_map(|value| value.to_str().ok()).collect();
    let state = states.join(",");
    TraceContext {
        trace_id,
        parent_id: Some(parent_id),
        span_id: random_span_id(),
        sampled: flags & SAMPLED != 0,
        state: if state.len() <= MAX_STATE { state } else { String::new() },
    }
}

/// Trace, parent and flags of a `traceparent`; of a later version than 00, the fields that it begins with.
fn parse(text: &str) -> Option<(u128, u64, u8)> {
    let text = text.trim();
    let hex = |part: &str| part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let part = |from: usize, to: usize| text.get(from..to).filter(|part| hex(part));
    let hyphens = [2, 35, 52].iter().all(|place| text.as_bytes().get(*place) == Some(&b'-'));
    let version = part(0, 2).filter(|version| hyphens && *version != "ff")?;
    let ends = match text.as_bytes().get(55) {
        None => true,
        Some(next) => version != "00" && *next == b'-',
    };
    let trace_id = u128::from_str_radix(part(3, 35)?, 16).ok().filter(|id| *id != 0)?;
    let parent_id = u64::from_str_radix(part(36, 52)?, 16).ok().filter(|id| *id != 0)?;
    let flags = u8::from_str_radix(part(53, 55)?, 16).ok()?;
    ends.then_some((trace_id, parent_id, flags))
}

fn random_trace_id() -> u128 {
    u128::from_le_bytes(random()).max(1)
}

fn random_span_id() -> u64 {
    u64::from_le_bytes(random()).max(1)
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    if SystemRandom::new().fill(&mut bytes).is_err() {
        // A system without random numbers: time and chance of a UUID are better than the same id for all.
        let uuid = uuid::Uuid::now_v7();
        bytes.iter_mut().zip(uuid.as_bytes().iter().rev()).for_each(|(byte, own)| *byte = *own);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn of(parents: &[&str], states: &[&str]) -> TraceContext {
        let mut headers = HeaderMap::new();
        for text in parents {
            headers.append(TRACEPARENT, HeaderValue::from_str(text).unwrap());
        }
        for text in states {
            headers.append(TRACESTATE, HeaderValue::from_str(text).unwrap());
        }
        incoming(&headers, false)
    }

    #[test]
    fn a_parent_is_taken_over_and_the_answer_names_our_span() {
        let context = of(&[GOOD], &["congo=t61rcWkgMzE", "rojo=00f067aa0ba902b7"]);
        assert_eq!(context.trace_id_hex(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!((context.parent_id, context.sampled), (Some(0x00f0_67aa_0ba9_02b7), true));
        assert_eq!(context.state, "congo=t61rcWkgMzE,rojo=00f067aa0ba902b7");
        assert_ne!(context.span_id, 0x00f0_67aa_0ba9_02b7);
        let answer = context.response().unwrap();
        let expected = format!("00-4bf92f3577b34da6a3ce929d0e0e4736-{}-01", context.span_id_hex());
        assert_eq!(answer.to_str().unwrap(), expected);
        assert!(!of(&[&GOOD.replace("-01", "-00")], &[]).sampled);
        assert_eq!(
            of(&[&format!("cc{}-more", &GOOD[2..])], &[]).parent_id,
            Some(0x00f0_67aa_0ba9_02b7),
            "a later version"
        );
        assert_eq!(of(&[GOOD], &[&"a=b,".repeat(200)]).state, "", "too long to be carried");
    }

    #[test]
    fn what_is_not_as_specified_begins_a_trace() {
        let zero_trace = format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32));
        let zero_parent = GOOD.replace("00f067aa0ba902b7", "0000000000000000");
        let (upper, longer) = (GOOD.to_uppercase(), format!("{GOOD}-x"));
        for bad in ["", "x", &zero_trace, &zero_parent, &upper, &longer, &GOOD.replace("00-4", "ff-4"), &GOOD[..54]] {
            let context = of(&[bad], &["a=b"]);
            assert_eq!((context.parent_id, context.state.as_str()), (None, ""), "{bad}");
            assert_ne!(context.trace_id, 0);
        }
        assert_eq!(of(&[GOOD, GOOD], &[]).parent_id, None, "two");
        assert_ne!(of(&[], &[]).trace_id, of(&[], &[]).trace_id);
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_panic(text in "\\PC{0,80}") {
            let _ = parse(&text);
        }

        #[test]
        fn what_is_written_is_read(trace in 1u128.., span in 1u64.., sampled: bool) {
            let context = TraceContext { trace_id: trace, parent_id: None, span_id: span, sampled, state: String::new() };
            let text = context.response().unwrap();
            prop_assert_eq!(parse(text.to_str().unwrap()), Some((trace, span, u8::from(sampled))));
        }
    }
}
