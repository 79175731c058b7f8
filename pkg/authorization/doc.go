// Package authorization says what the interceptors of a context ask, and whom:
// the URL of an OAuth server or callout, and the keys of JSON Web Tokens.
//
// It promises that what it calls valid can be asked: URLs are absolute, limits
// hold, and no algorithm is allowed whose key the signer and the checker share.
// It asks nobody itself; that is pkg/interceptor's.
package authorization
