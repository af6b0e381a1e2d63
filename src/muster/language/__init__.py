"""The query language and its two relatives: target conditions and routing conditions.

Pure functions over text and JSON values: no I/O, no clock, no logging. One lexer, one parser, one
tree and one table of functions; what differs is how a path is understood (`collections` for twins,
`routes` for messages). A tree is evaluated over one document (`evaluate`), explained over one
document (`explain`), or compiled to SQL (`sql`), with the same result. Source: hub-service.md 5, 7.
"""
