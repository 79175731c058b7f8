package event

import "strings"

// IsJSON reports whether a content type is JSON: application/json, text/json, what
// has the structured syntax suffix +json (RFC 6839), or none at all, as in
// CloudEvents.
func IsJSON(contentType string) bool {
	t, _, _ := strings.Cut(contentType, ";")
	t = strings.TrimSpace(t)
	return t == "" || strings.EqualFold(t, "application/json") || strings.EqualFold(t, "text/json") ||
		len(t) > len("+json") && strings.EqualFold(t[len(t)-len("+json"):], "+json")
}
