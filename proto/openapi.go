package proto

import _ "embed"

// OpenAPI is the Master API's document (OpenAPI 2.0, JSON) as it is generated.
// It must not be changed.
//
//go:embed gen/posthorn.swagger.json
var OpenAPI []byte
