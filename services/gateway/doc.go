// Package gateway is the HTTP entrance for publishers.
//
// It bounds a request's body, finds its source, lets the source check who sent
// it and read its events, and hands those to the broker. It answers 202 when the
// broker has taken responsibility, and with a problem (RFC 9457) and a record of
// the rejection when somebody was refused. It keeps no state, so any number of
// gateways may run.
package gateway
