// Package interceptor checks a publisher's request by the security of a policy:
// an ordered flow of interceptors, the first failure of which refuses the
// request (S4 to S9, C8).
//
// [Validate] says what is wrong with a flow that a user wrote, [Compile]
// prepares it, and [Flow.Check] runs it. There are eight kinds of interceptor, a
// file each: Access Token, Client ID, OAuth, JWT, IP filter, HMAC, header value
// and JSON field. The first four ask a URL that the context's authorization
// names, all through one [Asker]. [ClientAddr] finds the address that an IP
// filter is about.
//
// It promises to fail closed: what can't be read, reached or decided is refused,
// and so is everything that a context has no authorization for. Secrets and
// tokens are compared in constant time or by their hash, and appear in no error,
// step or log line; caches hold SHA-256 hashes of them.
//
// It keeps answers and signing keys in memory, bounded by count, and nothing
// beyond the process. It does not bound bodies and headers, limit rates or
// store rejections: that is for the gateway.
//
// # Write-only values
//
// The secrets of a flow are given to [Compile] by the interceptor's ID. A value
// of several lines is several live values, any of which is taken: put the new
// one on a line of its own, and remove the old one when every publisher has
// changed.
//
// # Callout
//
// With mode CALLOUT an authorization's URL gets one POST with content type
// application/json for each credential that isn't known yet:
//
//	{"kind":"access_token","accessToken":"…","context":"default"}
//	{"kind":"client_id","clientId":"…","context":"default"}
//	{"kind":"oauth","accessToken":"…","clientId":"…","context":"default"}
//
// If the authorization has a client ID and secret, they are sent as HTTP Basic.
// The answer's status decides, its body is not looked at:
//
//	2xx              allowed; remembered for the authorization's cache time, or for
//	                 the max-age of Cache-Control if that is shorter; with no-store
//	                 or no-cache, not at all
//	403              the credential is known and not allowed (403 to the publisher)
//	other 4xx        the credential is not valid (401 to the publisher)
//	anything else,   no answer: refused (403 to the publisher), not remembered, and
//	408 and 429      counted by the breaker
//
// # Introspection
//
// With mode INTROSPECTION the URL is a token introspection endpoint (RFC 7662)
// and gets the credential as form field token, with HTTP Basic. "active" must be
// true; exp and nbf are respected. Client ID posts the ID as the token with
// token_type_hint=client_id. OAuth posts the access token; the answer's
// client_id must be the one that the publisher sent. If the answer names none,
// the client ID is asked by itself, since else nothing would vouch for it.
package interceptor
