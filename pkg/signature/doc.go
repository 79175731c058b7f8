// Package signature makes and checks the signatures of webhooks: the HMAC
// schemes of providers, Standard Webhooks, the HMAC-SIG header of Certes and
// the JWT of a delivery.
//
// It promises that everything is computed over the bytes it is given, that
// secrets and signatures are compared in constant time, that each secret of a
// list is tried (so that one can be rotated out while the next is rotated in),
// and that an empty list or an empty secret never verifies.
//
// It keeps no secrets beyond the values that callers hold, reads no request
// and knows no policy: which header a signature stands in, how large a body may
// be and what a client is told is for its callers.
package signature
