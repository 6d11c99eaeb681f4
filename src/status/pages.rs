//! The page itself: three files in the binary. They hold nothing of this gateway, so everybody who reaches it may have
//! them; what they show they ask for, as whoever is logged in.

use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};

const INDEX: &str = include_str!("page/index.html");
const STYLE: &str = include_str!("page/style.css");
const SCRIPT: &str = include_str!("page/script.js");

/// `GET /`
pub(super) async fn index(headers: HeaderMap) -> Response {
    file(&headers, "text/html; charset=utf-8", INDEX)
}

/// `GET /style.css`
pub(super) async fn style(headers: HeaderMap) -> Response {
    file(&headers, "text/css; charset=utf-8", STYLE)
}

/// `GET /script.js`
pub(super) async fn script(headers: HeaderMap) -> Response {
    file(&headers, "text/javascript; charset=utf-8", SCRIPT)
}

/// A browser keeps it and asks each time whether it is still so: after an update nobody sees the old page.
fn file(headers: &HeaderMap, kind: &'static str, text: &'static str) -> Response {
    let tag = format!("\"{:08x}\"", crc32fast::hash(text.as_bytes()));
    let kept = headers.get(IF_NONE_MATCH).is_some_and(|kept| kept.as_bytes() == tag.as_bytes());
    let about = [(CACHE_CONTROL, "no-cache".to_owned()), (ETAG, tag)];
    if kept {
        return (StatusCode::NOT_MODIFIED, about).into_response();
    }
    (about, [(CONTENT_TYPE, kind)], text).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_small_and_asks_nobody_else_for_anything() {
        assert!(INDEX.len() + STYLE.len() + SCRIPT.len() < 60_000);
        for text in [INDEX, STYLE, SCRIPT] {
            let outside = text.replace("http://www.w3.org/2000/svg", "");
            for word in ["http://", "https://", "@import", "//cdn", "innerHTML", "insertAdjacentHTML", "document.write"]
            {
                assert!(!outside.contains(word), "{word}");
            }
        }
        assert!(!INDEX.contains(" style=") && !INDEX.contains(" onclick="), "the policy would not let it");
    }
}
