#!/bin/sh
# Stands for the agent program in the tests of the agent link: becomes the test binary itself, in the
# role of an agent. The "configuration" ($6) names how to behave, the test binary, and a directory.
{ read -r YAO_TEST_MODE; read -r binary; } < "$6"
YAO_TEST_SOCKET="$2" YAO_TEST_GENERATION="$4" YAO_TEST_CONFIG="$6"
export YAO_TEST_MODE YAO_TEST_SOCKET YAO_TEST_GENERATION YAO_TEST_CONFIG
exec "$binary" --exact agent_link::fake_agent::process --nocapture
