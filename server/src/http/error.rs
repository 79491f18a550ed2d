//! Errors of requests: made once where they happen, written as JSON, page or fragment by what was asked.

use crate::actions::NotOrdered;
use crate::deploy::{ConfigProblem, NotKept};
use crate::store::StoreError;
use crate::words::{Lang, Words};
use axum::Json;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

/// An error with everything needed to write it in either language.
#[derive(Debug, Clone)]
pub struct Failure {
    /// HTTP status.
    pub status: StatusCode,
    /// Code for programs.
    pub code: &'static str,
    /// Sentence with its remedy.
    pub words: Words,
    /// Problems of a configuration.
    pub problems: Vec<ConfigProblem>,
    /// More members of the JSON body.
    pub more: Map<String, Value>,
}

/// The error of a handler; boxed, because the good case is the common one.
pub type Error = Box<Failure>;
/// Result of a handler.
pub type Result<T> = std::result::Result<T, Error>;

impl Failure {
    /// With an own status and code.
    pub fn new(status: StatusCode, code: &'static str, en: impl Into<String>, ja: impl Into<String>) -> Error {
        Box::new(Failure { status, code, words: Words::new(en, ja), problems: Vec::new(), more: Map::new() })
    }
    /// 400.
    pub fn bad_request(en: impl Into<String>, ja: impl Into<String>) -> Error {
        Failure::new(StatusCode::BAD_REQUEST, "bad_request", en, ja)
    }
    /// 404.
    pub fn not_found() -> Error {
        Failure::new(
            StatusCode::NOT_FOUND,
            "not_found",
            "There is nothing under this address; check the names in it.",
            "この URL には何もありません。名前を確認してください。",
        )
    }
    /// 409.
    pub fn conflict(code: &'static str, en: impl Into<String>, ja: impl Into<String>) -> Error {
        Failure::new(StatusCode::CONFLICT, code, en, ja)
    }
    /// 401.
    pub fn not_signed_in() -> Error {
        Failure::new(
            StatusCode::UNAUTHORIZED,
            "not_signed_in",
            "Sign in, or send an API token: Authorization: Bearer TOKEN.",
            "サインインするか、API トークンを送信してください（Authorization: Bearer TOKEN）。",
        )
    }
    /// 403.
    pub fn not_allowed() -> Error {
        Failure::new(
            StatusCode::FORBIDDEN,
            "not_allowed",
            "Your role does not allow this; ask an administrator.",
            "この操作の権限がありません。管理者に依頼してください。",
        )
    }
    /// 500; the cause goes to the log.
    pub fn internal(error: &(dyn std::error::Error + 'static)) -> Error {
        tracing::error!(error, "A request could not be answered.");
        Failure::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "The console could not answer; the cause is in its log. Try again.",
            "コンソールが処理できませんでした。原因はコンソールのログにあります。もう一度お試しください。",
        )
    }
    /// Adds a member of the JSON body.
    #[must_use]
    pub fn with(mut self: Box<Self>, key: &str, value: Value) -> Error {
        self.more.insert(key.to_owned(), value);
        self
    }

    /// JSON body in `lang`.
    pub fn body(&self, lang: Lang) -> Value {
        let mut body = self.more.clone();
        body.insert("error".into(), json!(self.code));
        body.insert("message".into(), json!(self.words.of(lang)));
        if !self.problems.is_empty() {
            body.insert("problems".into(), problems(&self.problems, lang));
        }
        Value::Object(body)
    }
}

/// Problems of a configuration as in the API.
pub fn problems(problems: &[ConfigProblem], lang: Lang) -> Value {
    let one = |p: &ConfigProblem| {
        json!({
            "file": p.file, "line": p.line, "column": p.column, "element": p.element,
            "message": p.message.of(lang), "remedy": p.remedy.of(lang), "warning": p.is_warning,
        })
    };
    Value::Array(problems.iter().map(one).collect())
}

impl IntoResponse for Box<Failure> {
    fn into_response(self) -> Response {
        respond(*self)
    }
}

/// English JSON; the outer layer writes it anew for the language and form that were asked for.
fn respond(failure: Failure) -> Response {
    let mut response = (failure.status, Json(failure.body(Lang::En))).into_response();
    if failure.status == StatusCode::UNAUTHORIZED {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, header::HeaderValue::from_static("Bearer"));
    }
    response.extensions_mut().insert(Box::new(failure));
    response
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        Failure::internal(&error)
    }
}

impl From<NotKept> for Error {
    fn from(error: NotKept) -> Self {
        match error {
            NotKept::Problems(problems) => {
                let errors = problems.iter().filter(|p| !p.is_warning).count();
                let mut failure = Failure::new(
                    StatusCode::UNPROCESSABLE_ENTITY,
                    "config_problems",
                    format!("The configuration has {errors} error(s) and was not stored; correct them and send it again."),
                    format!("設定に {errors} 件の誤りがあるため、保存していません。修正してもう一度送信してください。"),
                );
                failure.problems = problems;
                failure
            }
            NotKept::NameTaken => Failure::conflict(
                "name_taken",
                "That name is taken; choose another one.",
                "その名前はすでに使われています。別の名前にしてください。",
            ),
            NotKept::Missing => Failure::not_found(),
            NotKept::Store(error) => error.into(),
        }
    }
}

/// An order that was not given, with the module's name for the words.
pub fn not_ordered(error: NotOrdered, module: &tsugi_core::ids::ModuleName) -> Error {
    match error {
        NotOrdered::Store(error) => error.into(),
        NotOrdered::Running(id) => Failure::conflict(
            "operation_running",
            format!("Another operation on {module} is running; wait for its end: /api/v1/operations/{id}"),
            format!("{module} では別の操作が実行中です。終わるまでお待ちください：/api/v1/operations/{id}"),
        )
        .with("operation", json!(id)),
        // For the one who looks it up.
        NotOrdered::Repeated => Failure::conflict(
            "operation_running",
            format!("This order for {module} was given before; send it again to see its operation."),
            format!("{module} への同じ指示はすでに受け付けています。もう一度送信すると、その結果を確認できます。"),
        ),
        NotOrdered::Impossible(why) => {
            let words = super::words::refusal(&why.refusal, module, &why.node);
            let tagged = serde_json::to_value(&why.refusal).unwrap_or_default();
            let code = tagged.get("refusal").cloned().unwrap_or_default();
            Failure::conflict("refused", words.en, words.ja).with("refusal", code).with("node", json!(why.node))
        }
    }
}
