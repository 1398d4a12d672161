//! The messages of gnostic's `OpenAPIv2.proto`: one table of fields per message.

/// The encoding of a field's value.
#[derive(Clone, Copy)]
pub(super) enum Shape {
    /// A string.
    Text,
    /// A list of strings.
    Texts,
    /// A boolean.
    Flag,
    /// An integer.
    Integer,
    /// A floating-point number.
    Number,
    /// Any value, as YAML.
    Any,
    /// A list of any values.
    Anys,
    /// One type name or several.
    Type,
    /// A schema, in a message that can hold several.
    Items,
    /// A schema or a boolean.
    SchemaOrFlag,
    /// A schema, in a message that can also hold that of a file.
    SchemaItem,
    /// A message.
    Message(&'static Message),
    /// A list of messages.
    Messages(&'static Message),
    /// Messages by name.
    Named(&'static Message),
    /// Strings by name.
    NamedTexts,
    /// A list of lists of strings by name.
    Requirements,
    /// Parameters by name.
    Parameters,
    /// A list of parameters.
    Parameter,
    /// Security definitions by name.
    Security,
    /// Paths with their operations.
    Paths,
    /// Responses by status code.
    Responses,
}

/// The layout of a message. Extensions are fields whose names begin with `x-`.
pub(super) struct Message {
    /// Name in JSON, number and encoding of each field.
    pub fields: &'static [(&'static str, u32, Shape)],
    /// The number of the list of extensions; 0 if the message has none.
    pub extensions: u32,
}

macro_rules! message {
    ($(#[$doc:meta])* $name:ident, $extensions:literal, [$(($field:literal, $number:literal, $shape:expr)),* $(,)?]) => {
        $(#[$doc])*
        pub(super) static $name: Message = Message {
            fields: &[$(($field, $number, $shape)),*],
            extensions: $extensions,
        };
    };
}

message!(
    DOCUMENT,
    16,
    [
        ("swagger", 1, Shape::Text),
        ("info", 2, Shape::Message(&INFO)),
        ("host", 3, Shape::Text),
        ("basePath", 4, Shape::Text),
        ("schemes", 5, Shape::Texts),
        ("consumes", 6, Shape::Texts),
        ("produces", 7, Shape::Texts),
        ("paths", 8, Shape::Paths),
        ("definitions", 9, Shape::Named(&SCHEMA)),
        ("parameters", 10, Shape::Parameters),
        ("responses", 11, Shape::Named(&RESPONSE)),
        ("security", 12, Shape::Requirements),
        ("securityDefinitions", 13, Shape::Security),
        ("tags", 14, Shape::Messages(&TAG)),
        ("externalDocs", 15, Shape::Message(&EXTERNAL_DOCS)),
    ]
);

message!(
    INFO,
    7,
    [
        ("title", 1, Shape::Text),
        ("version", 2, Shape::Text),
        ("description", 3, Shape::Text),
        ("termsOfService", 4, Shape::Text),
        ("contact", 5, Shape::Message(&CONTACT)),
        ("license", 6, Shape::Message(&LICENSE)),
    ]
);

message!(
    CONTACT,
    4,
    [
        ("name", 1, Shape::Text),
        ("url", 2, Shape::Text),
        ("email", 3, Shape::Text),
    ]
);

message!(
    LICENSE,
    3,
    [("name", 1, Shape::Text), ("url", 2, Shape::Text)]
);

message!(
    TAG,
    4,
    [
        ("name", 1, Shape::Text),
        ("description", 2, Shape::Text),
        ("externalDocs", 3, Shape::Message(&EXTERNAL_DOCS)),
    ]
);

message!(
    EXTERNAL_DOCS,
    3,
    [("description", 1, Shape::Text), ("url", 2, Shape::Text),]
);

message!(
    PATH_ITEM,
    10,
    [
        ("$ref", 1, Shape::Text),
        ("get", 2, Shape::Message(&OPERATION)),
        ("put", 3, Shape::Message(&OPERATION)),
        ("post", 4, Shape::Message(&OPERATION)),
        ("delete", 5, Shape::Message(&OPERATION)),
        ("options", 6, Shape::Message(&OPERATION)),
        ("head", 7, Shape::Message(&OPERATION)),
        ("patch", 8, Shape::Message(&OPERATION)),
        ("parameters", 9, Shape::Parameter),
    ]
);

message!(
    OPERATION,
    13,
    [
        ("tags", 1, Shape::Texts),
        ("summary", 2, Shape::Text),
        ("description", 3, Shape::Text),
        ("externalDocs", 4, Shape::Message(&EXTERNAL_DOCS)),
        ("operationId", 5, Shape::Text),
        ("produces", 6, Shape::Texts),
        ("consumes", 7, Shape::Texts),
        ("parameters", 8, Shape::Parameter),
        ("responses", 9, Shape::Responses),
        ("schemes", 10, Shape::Texts),
        ("deprecated", 11, Shape::Flag),
        ("security", 12, Shape::Requirements),
    ]
);

message!(
    BODY_PARAMETER,
    6,
    [
        ("description", 1, Shape::Text),
        ("name", 2, Shape::Text),
        ("in", 3, Shape::Text),
        ("required", 4, Shape::Flag),
        ("schema", 5, Shape::Message(&SCHEMA)),
    ]
);

message!(
    /// Parameters in queries and forms.
    QUERY_PARAMETER, 23, [
    ("required", 1, Shape::Flag),
    ("in", 2, Shape::Text),
    ("description", 3, Shape::Text),
    ("name", 4, Shape::Text),
    ("allowEmptyValue", 5, Shape::Flag),
    ("type", 6, Shape::Text),
    ("format", 7, Shape::Text),
    ("items", 8, Shape::Message(&PRIMITIVES)),
    ("collectionFormat", 9, Shape::Text),
    ("default", 10, Shape::Any),
    ("maximum", 11, Shape::Number),
    ("exclusiveMaximum", 12, Shape::Flag),
    ("minimum", 13, Shape::Number),
    ("exclusiveMinimum", 14, Shape::Flag),
    ("maxLength", 15, Shape::Integer),
    ("minLength", 16, Shape::Integer),
    ("pattern", 17, Shape::Text),
    ("maxItems", 18, Shape::Integer),
    ("minItems", 19, Shape::Integer),
    ("uniqueItems", 20, Shape::Flag),
    ("enum", 21, Shape::Anys),
    ("multipleOf", 22, Shape::Number),
]);

message!(
    /// Parameters in headers and paths.
    PATH_PARAMETER, 22, [
    ("required", 1, Shape::Flag),
    ("in", 2, Shape::Text),
    ("description", 3, Shape::Text),
    ("name", 4, Shape::Text),
    ("type", 5, Shape::Text),
    ("format", 6, Shape::Text),
    ("items", 7, Shape::Message(&PRIMITIVES)),
    ("collectionFormat", 8, Shape::Text),
    ("default", 9, Shape::Any),
    ("maximum", 10, Shape::Number),
    ("exclusiveMaximum", 11, Shape::Flag),
    ("minimum", 12, Shape::Number),
    ("exclusiveMinimum", 13, Shape::Flag),
    ("maxLength", 14, Shape::Integer),
    ("minLength", 15, Shape::Integer),
    ("pattern", 16, Shape::Text),
    ("maxItems", 17, Shape::Integer),
    ("minItems", 18, Shape::Integer),
    ("uniqueItems", 19, Shape::Flag),
    ("enum", 20, Shape::Anys),
    ("multipleOf", 21, Shape::Number),
]);

message!(
    PRIMITIVES,
    18,
    [
        ("type", 1, Shape::Text),
        ("format", 2, Shape::Text),
        ("items", 3, Shape::Message(&PRIMITIVES)),
        ("collectionFormat", 4, Shape::Text),
        ("default", 5, Shape::Any),
        ("maximum", 6, Shape::Number),
        ("exclusiveMaximum", 7, Shape::Flag),
        ("minimum", 8, Shape::Number),
        ("exclusiveMinimum", 9, Shape::Flag),
        ("maxLength", 10, Shape::Integer),
        ("minLength", 11, Shape::Integer),
        ("pattern", 12, Shape::Text),
        ("maxItems", 13, Shape::Integer),
        ("minItems", 14, Shape::Integer),
        ("uniqueItems", 15, Shape::Flag),
        ("enum", 16, Shape::Anys),
        ("multipleOf", 17, Shape::Number),
    ]
);

message!(
    HEADER,
    19,
    [
        ("type", 1, Shape::Text),
        ("format", 2, Shape::Text),
        ("items", 3, Shape::Message(&PRIMITIVES)),
        ("collectionFormat", 4, Shape::Text),
        ("default", 5, Shape::Any),
        ("description", 18, Shape::Text),
    ]
);

message!(
    RESPONSE,
    5,
    [
        ("description", 1, Shape::Text),
        ("schema", 2, Shape::SchemaItem),
        ("headers", 3, Shape::Named(&HEADER)),
    ]
);

message!(
    REFERENCE,
    0,
    [("$ref", 1, Shape::Text), ("description", 2, Shape::Text),]
);

message!(
    SCHEMA,
    31,
    [
        ("$ref", 1, Shape::Text),
        ("format", 2, Shape::Text),
        ("title", 3, Shape::Text),
        ("description", 4, Shape::Text),
        ("default", 5, Shape::Any),
        ("multipleOf", 6, Shape::Number),
        ("maximum", 7, Shape::Number),
        ("exclusiveMaximum", 8, Shape::Flag),
        ("minimum", 9, Shape::Number),
        ("exclusiveMinimum", 10, Shape::Flag),
        ("maxLength", 11, Shape::Integer),
        ("minLength", 12, Shape::Integer),
        ("pattern", 13, Shape::Text),
        ("maxItems", 14, Shape::Integer),
        ("minItems", 15, Shape::Integer),
        ("uniqueItems", 16, Shape::Flag),
        ("maxProperties", 17, Shape::Integer),
        ("minProperties", 18, Shape::Integer),
        ("required", 19, Shape::Texts),
        ("enum", 20, Shape::Anys),
        ("additionalProperties", 21, Shape::SchemaOrFlag),
        ("type", 22, Shape::Type),
        ("items", 23, Shape::Items),
        ("allOf", 24, Shape::Messages(&SCHEMA)),
        ("properties", 25, Shape::Named(&SCHEMA)),
        ("discriminator", 26, Shape::Text),
        ("readOnly", 27, Shape::Flag),
        ("externalDocs", 29, Shape::Message(&EXTERNAL_DOCS)),
        ("example", 30, Shape::Any),
    ]
);

message!(
    BASIC,
    3,
    [("type", 1, Shape::Text), ("description", 2, Shape::Text)]
);

message!(
    API_KEY,
    5,
    [
        ("type", 1, Shape::Text),
        ("name", 2, Shape::Text),
        ("in", 3, Shape::Text),
        ("description", 4, Shape::Text),
    ]
);

message!(
    OAUTH_IMPLICIT,
    6,
    [
        ("type", 1, Shape::Text),
        ("flow", 2, Shape::Text),
        ("scopes", 3, Shape::NamedTexts),
        ("authorizationUrl", 4, Shape::Text),
        ("description", 5, Shape::Text),
    ]
);

message!(
    /// The flows `password` and `application`.
    OAUTH_TOKEN, 6, [
    ("type", 1, Shape::Text),
    ("flow", 2, Shape::Text),
    ("scopes", 3, Shape::NamedTexts),
    ("tokenUrl", 4, Shape::Text),
    ("description", 5, Shape::Text),
]);

message!(
    OAUTH_CODE,
    7,
    [
        ("type", 1, Shape::Text),
        ("flow", 2, Shape::Text),
        ("scopes", 3, Shape::NamedTexts),
        ("authorizationUrl", 4, Shape::Text),
        ("tokenUrl", 5, Shape::Text),
        ("description", 6, Shape::Text),
    ]
);
