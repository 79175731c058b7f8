// Package netguard keeps outbound connections on the public internet.
//
// Webhook, JWKS and authorization URLs come from whoever may edit a
// subscription or an authorization, and the platform usually runs where a cloud's
// metadata service, a database or the platform's own API can be reached without
// a password. A [Guard] refuses such addresses unless an operator allowed them.
//
// It promises to look at the address that is about to be dialled: after DNS, and
// again at every dial, so that a name which resolves differently the second time
// gains nothing. It allows any port, and keeps no list of names. What a proxy
// dials is out of its reach: clients that use a Guard must not use a proxy.
package netguard
