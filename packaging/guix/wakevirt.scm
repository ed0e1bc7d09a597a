;;; wakevirt's package and services for GNU Guix.
;;;
;;; Build the package: `make dist && guix build --file=packaging/guix/wakevirt.scm`. In an operating system's
;;; configuration, add this directory to the load path, and (service wakevirt-service-type) to its services.

(define-module (wakevirt)
  #:use-module (gnu packages pkg-config)
  #:use-module (gnu packages rust)
  #:use-module (gnu packages virtualization)
  #:use-module (gnu services)
  #:use-module (gnu services dbus)
  #:use-module (gnu services shepherd)
  #:use-module (gnu system shadow)
  #:use-module (guix build-system gnu)
  #:use-module (guix gexp)
  #:use-module ((guix licenses) #:prefix license:)
  #:use-module (guix packages)
  #:use-module (guix records)
  #:export (wakevirt
            wakevirt-configuration
            wakevirt-service-type))

(define wakevirt
  (package
    (name "wakevirt")
    (version "0.1.0")
    ;; The archive of `make dist`, with the sources of all crates.
    (source (local-file (string-append "../../target/dist/wakevirt-" version ".tar.xz")))
    (build-system gnu-build-system)
    (arguments
     (list
      #:tests? #f                       ;the tests need root
      #:phases
      #~(modify-phases %standard-phases
          (delete 'configure)
          (replace 'build
            (lambda _
              (setenv "HOME" (getcwd))
              (invoke "make" "programs" "CARGOFLAGS=--frozen")))
          (replace 'install
            ;; scripts/install lists the files, and writes the paths into them. The package does not contain
            ;; wakevirt-host: the hook must be in /usr/sbin, which Guix System does not have.
            (lambda _
              (setenv "PREFIX" #$output)
              (setenv "INIT" "shepherd")
              (setenv "PACKAGE" "wakevirt")
              (invoke "scripts/install" "install"))))))
    (native-inputs (list pkg-config rust (list rust "cargo")))
    (inputs (list libvirt))
    (supported-systems '("x86_64-linux" "aarch64-linux"))
    (home-page "https://wakevirt.invalid")
    (synopsis "Wake-on-LAN for libvirt's virtual machines")
    (description
     "When a magic packet arrives on the host's network, wakevirt finds the libvirt domain that has the MAC address in
the packet, and starts, resumes or wakes it.  By default, it does not wake any domain: a rule must allow it.")
    (license (list license:asl2.0 license:expat))))

(define-record-type* <wakevirt-configuration>
  wakevirt-configuration make-wakevirt-configuration
  wakevirt-configuration?
  (package wakevirt-configuration-package (default wakevirt))
  ;; Files for /etc/wakevirt.
  (capture wakevirt-configuration-capture (default (plain-file "capture.toml" "")))
  (actor wakevirt-configuration-actor (default (plain-file "actor.toml" ""))))

(define (wakevirt-files config)
  `(("wakevirt/capture.toml" ,(wakevirt-configuration-capture config))
    ("wakevirt/actor.toml" ,(wakevirt-configuration-actor config))))

;; Guix creates the group of each user only if it is in the list.
(define %wakevirt-accounts
  (append
   (map (lambda (name) (user-group (name name) (system? #t)))
        '("wakevirt-capture" "wakevirt-actor" "wakevirt-metrics" "wakevirt"))
   (map (lambda (name)
          (user-account
           (name name)
           (group name)
           (system? #t)
           (home-directory "/var/empty")
           (shell "/run/current-system/profile/sbin/nologin")))
        '("wakevirt-capture" "wakevirt-actor" "wakevirt-metrics"))))

;; Each service starts as root and changes its user. It exits if it cannot continue, and Shepherd starts it again.
(define (wakevirt-shepherd-services config)
  (map (lambda (name requirement)
         (let ((program (file-append (wakevirt-configuration-package config)
                                     (string-append "/bin/wakevirt-" name))))
           (shepherd-service
            (provision (list (string->symbol (string-append "wakevirt-" name))))
            (requirement requirement)
            (documentation (string-append "Run wakevirt-" name "."))
            (start #~(make-forkexec-constructor (list #$program)
                                                #:log-file #$(string-append "/var/log/wakevirt-" name ".log")))
            (stop #~(make-kill-destructor))
            (actions
             (list (shepherd-action
                    (name 'reload)
                    (documentation "Read the configuration again.")
                    (procedure #~(lambda (process)
                                   (let ((pid (if (number? process) process (process-id process))))
                                     (kill pid SIGHUP))))))))))
       '("capture" "actor")
       '((user-processes dbus-system) (user-processes dbus-system))))

(define wakevirt-service-type
  (service-type
   (name 'wakevirt)
   (description "Start libvirt's domains for magic packets.")
   (default-value (wakevirt-configuration))
   (extensions
    (list (service-extension account-service-type (const %wakevirt-accounts))
          (service-extension etc-service-type wakevirt-files)
          (service-extension dbus-root-service-type
                             (compose list wakevirt-configuration-package))
          (service-extension polkit-service-type
                             (compose list wakevirt-configuration-package))
          (service-extension profile-service-type
                             (compose list wakevirt-configuration-package))
          (service-extension shepherd-root-service-type wakevirt-shepherd-services)))))

;; The result of the file, for `guix build --file`.
wakevirt
