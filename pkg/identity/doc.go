// Package identity knows who calls and what they may do.
//
// Callers are users, who sign in with a password and get a token, and API keys,
// which are tokens themselves; one of the keys is the administrator's. All of
// them are in KV bucket identity, shared by all processes. A [Directory] mirrors
// it, so that checking a token asks nobody. [Methods] says which role each
// method of the platform's gRPC services wants.
//
// The bucket holds, as JSON:
//
//	keys.<name>      API key: SHA-256, roles, expiry; keys.admin is the administrator's
//	used.<name>      when the key was used last, to the minute
//	users.<name>     user: roles, argon2id hash of the password, generation
//	failures.<name>  wrong passwords of a user, and until when it is locked
//	misses.<xx>      the same of names that no user has, 256 for all of them
//	signing          the ring of keys that sign tokens, the private one sealed
//
// It promises that a key or user that is deleted, disabled or has other roles is
// treated so by every process as soon as the change has reached its mirror,
// tokens that were given out before included; that a password or key cannot be
// read anywhere, neither in the bucket nor in logs, errors or answers (but for
// the one answer that makes a key); that nobody gives roles which it does not
// have, or changes a user or key with such roles; and that signing in takes the
// same work for a user that exists and one that does not.
//
// It does not keep last uses of the last minute through a crash, and does not
// know what was changed by whom before the last change: that is what pkg/audit
// is for. A mirror that is cut off from the bucket goes on with what it has
// seen.
package identity
