"""Put a store right as far as that goes without the network; nothing is made worse, and what is lost is said."""
