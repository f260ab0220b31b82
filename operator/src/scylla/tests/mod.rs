mod properties;
mod scenarios;
mod sim;
