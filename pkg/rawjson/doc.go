// Package rawjson finds what stands where in a JSON document. encoding/json copies
// and reads again what it decodes; here data stay the bytes that came.
//
// What only finds something expects valid JSON in UTF-8, as [Valid] says. Given
// anything else it finds something or nothing, and does not panic.
package rawjson
