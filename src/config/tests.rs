use super::*;

fn on_data(settings: Settings) -> Settings {
    settings.or(Settings { placement: PlacementSettings::on("x.lt"), ..Settings::default() })
}

#[test]
fn flags_win_over_files_over_presets() {
    let flags = Settings { lr: Some(1.0), ..Settings::default() };
    let file = Settings { lr: Some(2.0), epochs: Some(3), ..Settings::default() };
    let under = preset("cifar10-lt-if100").unwrap().settings();
    let all = flags.or(file).or(under);
    assert_eq!((all.lr, all.epochs, all.batch), (Some(1.0), Some(3), Some(64)));
}

#[test]
fn a_configuration_survives_its_file() {
    for preset in presets() {
        let config = Config::resolve(on_data(preset.settings())).unwrap();
        assert_eq!(toml::from_str::<Config>(&config.to_toml()).unwrap(), config);
    }
}

#[test]
fn the_warm_up_of_cb_focal_rises_with_every_step() {
    let rate = |name: &str| Config::resolve(on_data(preset(name).unwrap().settings())).unwrap().learning_rate();
    let (cb_focal, focal) = (rate("cifar10-lt-if100-cb-focal"), rate("cifar10-lt-if100-focal"));
    let first = |rate: &LearningRate| [(0, 0), (0, 96), (4, 96)].map(|(epoch, step)| rate.at(epoch, 200, step, 97));
    let near = |found: [f64; 3], expected: [f64; 3]| found.iter().zip(expected).all(|(f, e)| (f - e).abs() < 1e-12);
    assert!(near(first(&cb_focal), [0.1 / 485.0, 0.02, 0.1]), "{:?}", first(&cb_focal));
    assert!(near(first(&focal), [0.02, 0.02, 0.1]), "{:?}", first(&focal));
    assert!((cb_focal.at(160, 200, 0, 97) - 1e-3).abs() < 1e-12);
}

#[test]
fn help_shows_the_defaults_that_are_taken() {
    let flags = <Settings as clap::Args>::augment_args(clap::Command::new("settings"));
    let config = Config::resolve(on_data(Settings::default())).unwrap().to_toml();
    let config: toml::Table = toml::from_str(&config).unwrap();
    let mut shown = 0;
    for flag in flags.get_arguments() {
        let help = flag.get_help().map(ToString::to_string).unwrap_or_default();
        let said = help.split_once("[default: ").unwrap_or_else(|| panic!("{}: no default", flag.get_id())).1;
        let Some(value) = config
            .get(flag.get_id().as_str())
            .filter(|_| !["data", "threads", "precision", "device"].contains(&flag.get_id().as_str()))
        else {
            continue;
        };
        let value = value.as_str().map_or_else(|| value.to_string(), ToString::to_string);
        assert!(said.starts_with(&value), "{}: {help:?}, but {value} is taken", flag.get_id());
        shown += 1;
    }
    assert!(shown >= 15, "{shown}");
}

#[test]
fn absurd_values_are_named() {
    for (text, name) in
        [("lr = -1.0", "lr"), ("batch = 0", "batch"), ("momentum = 2.0", "momentum"), ("beta = nan", "beta")]
    {
        let settings = on_data(toml::from_str(text).unwrap());
        assert!(Config::resolve(settings).unwrap_err().to_string().starts_with(name), "{text}");
    }
}
