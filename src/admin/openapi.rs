//! `/openapi.json` (OpenAPI 3.1), made from the table of operations. Must not know what a call does.

use serde_json::{Map, Value, json};

use super::operations::{Body, OPEN_PATHS, OPERATIONS, Operation};
use crate::message::command::COMMANDS_MEDIA_TYPE;

/// The whole description.
pub fn document() -> Value {
    let mut paths: Map<String, Value> = Map::new();
    for operation in OPERATIONS {
        let path = paths.entry(operation.path).or_insert_with(|| json!({}));
        path[operation.method] = describe(operation);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Holdfast admin API",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Commands to connections, and the program's own state.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "schemas": {"Error": error_schema()},
        },
        "security": [{"token": []}],
    })
}

fn describe(operation: &Operation) -> Value {
    let mut answers: Map<String, Value> = Map::new();
    for (status, means) in operation.answers {
        answers.insert(status.to_string(), answer(*status, means));
    }
    let open = OPEN_PATHS.contains(&operation.path);
    if !open {
        answers.insert("401".into(), answer(401, "The bearer token is missing or wrong"));
        answers.insert(
            "403".into(),
            answer(
                403,
                "The token has not the scope of this call; or a browser's page calls a listener that has no token",
            ),
        );
    }
    let mut described = json!({
        "summary": operation.summary,
        "operationId": format!("{} {}", operation.method, operation.path),
        "parameters": parameters(operation),
        "responses": answers,
    });
    if open {
        described["security"] = json!([]);
    }
    if let Some(body) = body(operation.body) {
        described["requestBody"] = body;
    }
    described
}

fn answer(status: u16, means: &str) -> Value {
    if status < 400 || status == 503 {
        return json!({"description": means});
    }
    let content = json!({"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}});
    json!({"description": means, "content": content})
}

fn parameters(operation: &Operation) -> Vec<Value> {
    let in_path = operation.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
    let in_path =
        in_path.map(|name| json!({"name": name, "in": "path", "required": true, "schema": {"type": "string"}}));
    let in_query = operation
        .query
        .iter()
        .map(|(name, means)| json!({"name": name, "in": "query", "description": means, "schema": {"type": "string"}}));
    in_path.chain(in_query).collect()
}

fn body(body: Body) -> Option<Value> {
    let any = json!({});
    let content = match body {
        Body::None => return None,
        Body::Message => json!({
            "application/json": {"schema": any},
            "text/plain": {"schema": {"type": "string"}},
            "application/octet-stream": {"schema": any},
        }),
        Body::Commands => {
            let mut content = Map::new();
            content.insert(COMMANDS_MEDIA_TYPE.into(), json!({"schema": {"type": "array", "items": command_schema()}}));
            Value::Object(content)
        }
        Body::Level => json!({"application/json": {"schema": {
            "type": "object",
            "properties": {"level": {"type": "string", "examples": ["debug"]}},
            "required": ["level"],
        }}}),
        Body::Revocation => json!({"application/json": {"schema": {
            "type": "object",
            "properties": {
                "user": {"type": "string"},
                "jti": {"type": "string"},
                "claim": {"type": "string", "description": "a claim's name, or a JSON Pointer to it"},
                "equals": {"type": "string"},
                "ttl": {"type": "string", "examples": ["1h"]},
                "reason": {"type": "string"},
            },
            "required": ["ttl"],
            "additionalProperties": false,
        }}}),
    };
    Some(json!({"required": true, "content": content}))
}

fn command_schema() -> Value {
    let target = json!({
        "type": "object",
        "properties": {
            "connection": {"type": "string"},
            "user": {"type": "string"},
            "group": {"type": "string"},
            "all": {"const": true},
            "except": {"type": "array", "items": {"type": "string"}},
        },
        "additionalProperties": false,
    });
    let member = json!({
        "type": "object",
        "properties": {"connection": {"type": "string"}, "group": {"type": "string"}},
        "required": ["connection", "group"],
    });
    json!({
        "type": "object",
        "minProperties": 1,
        "maxProperties": 1,
        "properties": {
            "send": {"type": "object", "properties": {
                "to": target, "data": {}, "text": {"type": "string"}, "binary": {"type": "string"},
            }, "required": ["to"]},
            "close": {"type": "object", "properties": {
                "to": target, "code": {"type": "integer"}, "reason": {"type": "string"},
            }, "required": ["to"]},
            "join": member,
            "leave": member,
            "context": {"type": "object", "properties": {
                "connection": {"type": "string"}, "value": {"type": "string"},
            }, "required": ["connection", "value"]},
        },
        "additionalProperties": false,
    })
}

fn error_schema() -> Value {
    json!({
        "type": "object",
        "required": ["error"],
        "properties": {
            "error": {
                "type": "object",
                "required": ["code", "message"],
                "properties": {"code": {"type": "string"}, "message": {"type": "string"}},
            },
            "errors": {"type": "array", "items": {
                "type": "object",
                "properties": {"pointer": {"type": "string"}, "message": {"type": "string"}},
            }},
            "problems": {"type": "array", "items": {"type": "string"}},
        },
    })
}
