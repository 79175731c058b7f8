// Package gen holds what is generated from the .proto files beside their Go code.
package gen

import _ "embed"

// OpenAPI is the Master API's document (OpenAPI 2.0, JSON) as it is generated.
// What the platform serves is completed by services/api.
//
//go:embed posthorn.swagger.json
var OpenAPI []byte
