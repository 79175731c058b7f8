// Package settings is what is set once for the whole platform: feature flags.
//
// A flag is here only if some part asks for it. The settings are one resource in
// bucket config, which pkg/catalog mirrors into every process; this package says
// which flags there are, what they are without being set, and what is wrong with
// what a user wrote. It keeps nothing.
package settings
