"""Images from registries into the store: resolve, plan, fetch, verify, publish."""
